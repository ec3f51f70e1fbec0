"""Stored embeddings: which of them may be compared, and the files that hold them.

space   `VectorSpace`: the id of a network's embeddings, and `check_comparable`
unit    vectors of length one
files   .npz and Parquet files of vectors, written row by row and read back

None of them needs torch, so that the runtime can use them.
"""
