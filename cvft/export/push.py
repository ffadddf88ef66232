"""A folder to a hub, by the hub's own client."""

from __future__ import annotations

from pathlib import Path

from cvft.errors import CvftError, Problem


def upload(folder: Path, *, model_id: str, is_private: bool) -> str:
    """Makes a repository on Hugging Face where there is none, and uploads a folder as one commit.

    Args:
        folder: The files; links are followed.
        model_id: `owner/name`.
        is_private: Whether a new repository is private; one that exists stays as it is.

    Returns:
        Address of the commit.

    Raises:
        CvftError: when the hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(model_id, private=is_private, exist_ok=True)
        commit = api.upload_folder(repo_id=model_id, folder_path=folder, commit_message="Upload with cvft")
    except Exception as error:  # the client raises its own, those of its HTTP library and plain ones
        got = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
        hint = "`hf auth login` with a token that may write there"
        raise CvftError("the upload", [Problem(model_id, got, "a repository to write to", hint)]) from error
    return str(commit.commit_url)
