"""Errors that the user can fix. Each message is one line: what is wrong with which thing, and what to do.

OvsdinoError
├── BundleError           a bundle is missing, damaged, or of another version
├── PhotoError            a photo is missing, broken, or of an unsupported kind
│   ├── NotAPhotoError    a file is not a photo, or its format is not accepted
│   └── TooLargeError     a photo has more bytes or pixels than the limit
├── ClassesError          class names, templates or a threshold are not valid
├── OptionError           an option has an invalid value
├── EngineError           an engine is missing, or does not reproduce the model
└── OutputError           a result cannot be written

Packages and rooms derive their own errors from OvsdinoError, such as `files.labeled_folder.LabelError`.
"""


class OvsdinoError(Exception):
    """An error that the user can fix.

    Command lines print it after ``Error:`` and exit with 2, without a traceback.
    """


class BundleError(OvsdinoError):
    """A bundle is missing, damaged, or of another version."""


class PhotoError(OvsdinoError):
    """A photo is missing, broken, or of an unsupported kind."""


class NotAPhotoError(PhotoError):
    """A file is not a photo, or its format is not accepted."""


class TooLargeError(PhotoError):
    """A photo has more bytes or pixels than the limit."""


class PhotoWarning(UserWarning):
    """A choice was made to read a photo, such as a guessed bit depth or an ignored band."""


class ClassesError(OvsdinoError):
    """Class names, templates or a threshold are not valid."""


class OptionError(OvsdinoError):
    """An option has an invalid value."""


class EngineError(OvsdinoError):
    """The engine is not installed, or does not reproduce the model."""


class OutputError(OvsdinoError):
    """A result cannot be written."""
