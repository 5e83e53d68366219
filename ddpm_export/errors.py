"""The exceptions a user can meet, each with the exit code its command ends with. Knows nothing else."""

__all__ = [
    "BadFileError",
    "ConfigError",
    "DdpmExportError",
    "EnvironmentProblem",
    "ModelRefusedError",
    "NonFiniteError",
    "UsageError",
]


class DdpmExportError(Exception):
    """Something that stops the work and is told in one line: where, what, got, expected, what to do."""

    exit_code = 1


class UsageError(DdpmExportError):
    """An argument is out of its range, or two contradict each other."""

    exit_code = 2


class ConfigError(UsageError):
    """A network or training configuration is not one that can be built."""


class BadFileError(DdpmExportError):
    """A file is missing, broken, foreign or hostile."""

    exit_code = 3


class ModelRefusedError(DdpmExportError):
    """A sound file asks for what this reader cannot do, or an export did not reproduce its network."""

    exit_code = 4


class EnvironmentProblem(DdpmExportError):
    """A package, a device or room on the disk is missing."""

    exit_code = 5


class NonFiniteError(DdpmExportError):
    """A loss or an image became infinite or NaN; where it is an image, `where` and `index`, in its batch, say which."""

    exit_code = 6
    where: str = ""
    index: int | None = None

    @classmethod
    def at(cls, where: str, index: int, image: str = "") -> "NonFiniteError":
        """Return the error for an image of a batch, called `image` where its number is known."""
        image = image or f"image {index} of its batch"
        error = cls(f"At {where}, {image} became NaN or infinite. Run ddpm-check on the model.")
        error.where, error.index = where, index
        return error
