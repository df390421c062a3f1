"""Pictures for a prompt, looked at before anything is made on the server."""

from __future__ import annotations

from pathlib import Path

from openinspect.problems import Invalid

MOST = 6


def check(files: list[Path]) -> None:
    """Raises ``Invalid`` when one of them can't be attached, or when they are too many. The server looks again."""
    # the database's library comes with it: half a second that no other command should take
    from openinspect.sessions.attachments import MAX_BYTES, media_type_of

    if len(files) > MOST:
        raise Invalid(
            "too_many_pictures", f"{len(files)} pictures are too many.", f"Attach {MOST} of them at most."
        )
    for file in files:
        try:
            with file.open("rb") as opened:
                content = opened.read(16)
            size = file.stat().st_size
        except OSError as error:
            raise Invalid(
                "file_unreadable",
                f"{file} can't be read: {error.strerror}.",
                f"See whether it is there: ls -l {file}",
            ) from error
        if media_type_of(content) is None:
            raise Invalid(
                "attachment_type",
                f"{file} is not a PNG, JPEG, WebP or GIF picture.",
                "Attach a picture of one of these kinds; other files belong into the repository.",
            )
        if size > MAX_BYTES:
            raise Invalid(
                "attachment_too_large",
                f"{file} is larger than {MAX_BYTES // 1024**2} MiB.",
                "Make it smaller, then attach it again.",
            )
