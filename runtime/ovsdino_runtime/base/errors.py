"""What can go wrong through no fault of the program: each error is one line that says what to do."""


class OvsdinoError(Exception):
    """A mistake that the user can mend.

    Command lines print it after ``Error:`` and exit with 2, without a traceback.
    """


class BundleError(OvsdinoError):
    """A bundle is missing, damaged, or of another version."""


class PhotoError(OvsdinoError):
    """A photo is missing, broken, or of a kind that cannot be read."""


class NotAPhotoError(PhotoError):
    """A file is not a photo, or of a format that is not welcome."""


class TooLargeError(PhotoError):
    """A photo has more bytes or pixels than are taken."""


class PhotoWarning(UserWarning):
    """What had to be decided to read a photo: a guessed depth, a band that was left out."""


class ClassesError(OvsdinoError):
    """The class names or the templates make no valid vocabulary."""


class OptionError(OvsdinoError):
    """An option of how a model runs has a value that it cannot have."""


class EngineError(OvsdinoError):
    """The engine that was asked for is missing, or does not do what the bundle promises."""


class OutputError(OvsdinoError):
    """A result cannot be written where it was asked for."""
