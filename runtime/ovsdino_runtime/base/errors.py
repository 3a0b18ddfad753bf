"""Errors that the user can fix. Each message is one line: what is wrong with which thing, and what to do.

OvsdinoError
├── BundleError           a bundle is missing, damaged, or of another version
├── PhotoError            a photo is missing, broken, or of a kind that cannot be read
│   ├── NotAPhotoError    a file is no photo, or of a format that is not accepted
│   └── TooLargeError     a photo has more bytes or pixels than are accepted
├── ClassesError          class names, templates or a threshold are not valid
├── OptionError           an option has a value that it cannot have
├── EngineError           an engine is missing, or does not reproduce the model
└── OutputError           a result cannot be written

Packages and rooms derive their own from OvsdinoError, such as `files.labeled_folder.LabelError`.
"""


class OvsdinoError(Exception):
    """An error that the user can fix.

    Command lines print it after ``Error:`` and exit with 2, without a traceback.
    """


class BundleError(OvsdinoError):
    """A bundle is missing, damaged, or of another version."""


class PhotoError(OvsdinoError):
    """A photo is missing, broken, or of a kind that cannot be read."""


class NotAPhotoError(PhotoError):
    """A file is not a photo, or of a format that is not accepted."""


class TooLargeError(PhotoError):
    """A photo has more bytes or pixels than are accepted."""


class PhotoWarning(UserWarning):
    """What had to be decided to read a photo: a guessed depth, a band that was left out."""


class ClassesError(OvsdinoError):
    """Class names, templates or a threshold are not valid."""


class OptionError(OvsdinoError):
    """An option of how a model runs has a value that it cannot have."""


class EngineError(OvsdinoError):
    """The engine that was asked for is missing, or does not do what the bundle promises."""


class OutputError(OvsdinoError):
    """A result cannot be written where it was asked for."""
