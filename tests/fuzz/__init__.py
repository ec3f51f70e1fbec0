"""Property tests of everything that reads files of others, with random damaged inputs.

    make fuzz MINUTES=10

A *sort* is a kind of input, such as images or prompt banks: a module in `fuzz.sorts` that generates
cases (`cases`) and uses one as the product does (`use`). The property of every case: a result, or a
`PivlError` of a readable form, within limits of memory and time; never another exception, a crash
of the process, a changed input or a partly written file. `worker` examines cases in a process of
its own, `search` generates them with hypothesis and reduces those that fail, and `test_fuzz` runs a
fixed number of them in `make test`, together with those that failed before (`regressions/`).
"""
