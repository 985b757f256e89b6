from vpdist.api import Result as Result
from vpdist.api import embed as embed
from vpdist.api import open_run as open_run
from vpdist.api import predict as predict
from vpdist.results.opened_run import Run as Run

__version__: str
__all__ = ("Result", "Run", "__version__", "embed", "open_run", "predict")
