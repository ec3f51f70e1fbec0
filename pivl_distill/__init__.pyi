"""Types of the names that `__init__.py` imports on first use."""

from pivl_distill.api import evaluate as evaluate
from pivl_distill.api import export as export
from pivl_distill.api import teach as teach
from pivl_distill.api import train_student as train_student
from pivl_distill.bank import PromptBank as PromptBank
from pivl_distill.errors import PivlError as PivlError
from pivl_distill.runs.callbacks import Callback as Callback
from pivl_distill.runtime import Extractor as Extractor

__version__: str
