"""Teacher outputs kept on disk and reused from run to run; see docs/bank.md."""
from .bank import TeacherBank
from .folder import open_bank
from .layout import DTYPES, RowLayout
from .rows import RowFile

__all__ = ['DTYPES', 'RowFile', 'RowLayout', 'TeacherBank', 'open_bank']
