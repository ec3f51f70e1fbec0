"""Types of the names that `__init__.py` imports on first use."""

from pivl_distill.api.deployment import export as export
from pivl_distill.api.deployment import export_for as export_for
from pivl_distill.api.scores import evaluate as evaluate
from pivl_distill.api.scores import write_report as write_report
from pivl_distill.api.training import teach as teach
from pivl_distill.api.training import train_student as train_student
from pivl_distill.bank import PromptBank as PromptBank
from pivl_distill.errors import PivlError as PivlError
from pivl_distill.runs.callbacks import Callback as Callback
from pivl_distill.runtime import Extractor as Extractor

__version__: str
