"""Every error that a user can mend, as one tree.

    NextwordError
    ├── InputError               what was typed or passed cannot be used
    │   ├── SettingError         a sampling or command setting is out of its range
    │   ├── EmptyPrompt          nothing to continue
    │   ├── ContextOverflow      more tokens than the model can hold
    │   └── UnknownToken         an id or a word outside the vocabulary
    ├── ModelError               the stored model cannot be used
    │   ├── ModelNotFound        no such name, file or folder
    │   ├── CorruptFile          a file contradicts itself or its format
    │   ├── StaleIndex           an index was built for another text or another tokenizer
    │   ├── UnsupportedModel     a well-formed file that nextword does not run, or will not (pickle)
    │   └── TokenizerError       the model's tokenizer cannot be built
    ├── TrainingError            a run cannot go on
    │   ├── Diverged             the loss or a gradient is no longer a finite number
    │   └── OutOfMemory          a step needs more memory than its device has
    ├── FetchError               a download did not arrive
    │   ├── DownloadFailed       the network or the server gave up; the bytes so far are kept
    │   ├── ChecksumMismatch     a file has another hash than the promised one
    │   └── NoDiskRoom           the disk is full
    └── ServerError              a server of models refused or failed a request
        ├── Busy                 its queue is full; try again later
        └── Closing              it is shutting down

Each is raised with one sentence that says what is wrong and what to do; the command line prints that sentence
and exits with 1. Anything else that escapes is a bug in nextword.
"""


class NextwordError(Exception):
    """Base of all errors that the user can mend."""


class InputError(NextwordError):
    """What was typed or passed cannot be used."""


class SettingError(InputError):
    """A sampling or command setting is out of its range."""


class EmptyPrompt(InputError):
    """There is nothing to continue."""


class ContextOverflow(InputError):
    """More tokens than the model can hold at once."""


class UnknownToken(InputError):
    """A token id or a word outside the vocabulary."""


class ModelError(NextwordError):
    """The stored model cannot be used."""


class ModelNotFound(ModelError):
    """No model of this name, no such file or folder."""


class CorruptFile(ModelError):
    """A file contradicts itself or its format."""


class StaleIndex(ModelError):
    """An index was built for another text, or for another tokenizer than the model's."""


class UnsupportedModel(ModelError):
    """A well-formed model that nextword does not run, or refuses to load (pickle)."""


class TokenizerError(ModelError):
    """The tokenizer stored with the model cannot be built."""


class TrainingError(NextwordError):
    """A training run cannot go on."""


class Diverged(TrainingError):
    """The loss or a gradient is no longer a finite number."""


class OutOfMemory(TrainingError):
    """A step needs more memory than its device has."""


class FetchError(NextwordError):
    """A download did not arrive."""


class DownloadFailed(FetchError):
    """The network or the server gave up; the bytes fetched so far are kept for the next try."""


class ChecksumMismatch(FetchError):
    """A file has another hash than the promised one."""


class NoDiskRoom(FetchError):
    """The disk is full."""


class ServerError(NextwordError):
    """A server of models refused or failed a request, or is not running."""


class Busy(ServerError):
    """The server's queue is full; try again later."""


class Closing(ServerError):
    """The server is shutting down."""
