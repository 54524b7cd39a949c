"""How a run shows who it is to services that run elsewhere: TLS and a token, from the environment.

TRUELINE_CA, _CERTIFICATE, _KEY, _SERVER_NAME and _TOKEN_FILE (or _TOKEN) say where a run runs, not what it
computes, so they are no part of the recipe and may change at a resume. The services that a run starts itself
listen on loopback and ask for nothing.
"""

from orchestrator.processes import LaunchError
from orchestrator.recipe_settings import Services
from trueline import Access


def access_of(services: Services) -> dict[str, Access]:
    """By service. LaunchError where a token or certificate cannot be read, or would travel in plaintext."""
    try:
        given = Access.from_environment()
        found = {}
        for name in type(services).model_fields:
            addresses = getattr(services, name).addresses
            found[name] = given if addresses else Access()
            given.require_safe(addresses)
        if given in found.values():
            given.metadata(), given.credentials()  # read once now, so that a missing file is told at the door
    except ValueError as error:
        raise LaunchError(f"services that run elsewhere: {error}") from None
    return found
