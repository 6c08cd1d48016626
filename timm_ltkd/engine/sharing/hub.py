"""The Hugging Face hub: within reach, logged in to, and written to."""
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub import constants as hub_constants
from huggingface_hub.utils import HFValidationError, get_session, validate_repo_id

from ...errors import UserError, last_line

PATIENCE = 5.  # seconds
AUTO = 'auto'  # a repository that bears the name of the run's folder
_OPTION = '--push-to-hub'


def why_out_of_reach() -> str | None:
    """Why the hub cannot be reached, or None; it costs `PATIENCE`, not the minute of the hub client's retries."""
    try:
        get_session().head(hub_constants.ENDPOINT, timeout=PATIENCE)
    except Exception as e:  # whatever the hub's HTTP client raises, it is out of reach
        return last_line(e)
    return None


def open_repository(wanted: str, private: bool, name: str | None = None) -> str | None:
    """Log in, and make a repository if there is none: what can go wrong with a push is told here, but for the upload.

    Args:
        wanted: `OWNER/NAME`, `NAME` or `AUTO`.
        private: Nobody else is to see it.
        name: What `AUTO` stands for; None where that is not known yet, and only the login can be checked.

    Returns:
        `OWNER/NAME`, if that is known.

    Raises:
        UserError: No name for a repository; no login, one that only reads, or one that owns no such repository; the
            hub is out of reach; or the repository is there, and public against `private`.
    """
    if wanted == AUTO:
        wanted = name and auto_name(name)
    if wanted:
        try:
            validate_repo_id(wanted)
        except HFValidationError:
            raise UserError(
                f"{_OPTION} '{wanted}' is no name of a repository: OWNER/NAME or NAME, of letters, digits, - _ and "
                'single dots, at most 96') from None
    api = HfApi()
    login = _log_in(api)
    if not wanted:
        return None
    owner, slash, _ = wanted.rpartition('/')
    repo = wanted if slash else f'{login["name"]}/{wanted}'
    owners = [login['name'], *(org['name'] for org in login.get('orgs') or () if org.get('roleInOrg') != 'read')]
    if slash and owner not in owners:
        raise UserError(f'{_OPTION} {repo}: the login writes to {", ".join(owners)} only')
    try:
        api.create_repo(repo, private=private or None, exist_ok=True)
        public = private and not api.repo_info(repo).private
    except Exception as e:  # HTTP in all its kinds
        raise UserError(f'{_OPTION} {repo}: the repository cannot be made ({_reason(e)})') from e
    if public:
        raise UserError(f'{_OPTION} {repo} is there already, and public: name another, or leave out --hub-private')
    return repo


def auto_name(name: str) -> str:
    """The name of a repository for a run's folder.

    Raises:
        UserError: Nothing is left of the folder's name.
    """
    cleaned = re.sub(r'[^\w.]+|\.\.+', '-', name, flags=re.ASCII).strip('-.')[:96]
    if not cleaned:
        raise UserError(
            f"{_OPTION}: the folder's name '{name}' has no letter or digit that a repository may have; give OWNER/NAME")
    return cleaned


def _log_in(api: HfApi) -> dict[str, Any]:
    """Who the token of this machine (of `HF_TOKEN`, or of `hf auth login`) belongs to, as the hub says."""
    if get_token() is None:
        raise UserError(f'{_OPTION}: not logged in to the hub; `hf auth login`, or set HF_TOKEN to a token that writes')
    if reason := why_out_of_reach():
        raise UserError(f'{_OPTION}: the hub cannot be reached ({reason})')
    try:
        login = api.whoami()
    except Exception as e:
        raise UserError(f'{_OPTION}: the hub does not know the login ({_reason(e)}); `hf auth login` anew') from e
    if login.get('auth', {}).get('accessToken', {}).get('role') == 'read':
        raise UserError(f'{_OPTION}: the token of {login["name"]} only reads; make one that writes')
    return login


def upload(repo: str, files: Mapping[str, Path | bytes]) -> str:
    """Put files into a repository, in one commit.

    Args:
        repo: `OWNER/NAME`, from `open_repository`.
        files: Contents, or where they are, by the names that they get.

    Returns:
        Address of the repository.

    Raises:
        UserError: It failed.
    """
    api = HfApi()
    operations = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in sorted(files.items())]
    try:
        api.create_commit(repo, operations, commit_message='Add model')
    except Exception as e:  # HTTP, the network, the disk
        raise UserError(f'{_OPTION} {repo}: the upload failed ({_reason(e)})') from e
    return f'{api.endpoint}/{repo}'


def _reason(error: Exception) -> str:
    """What the hub says of a request that failed, in one line; its client adds lines of hints."""
    said = getattr(error, 'server_message', None) or str(error)
    return next((line.strip() for line in said.splitlines() if line.strip()), type(error).__name__)[:200]
