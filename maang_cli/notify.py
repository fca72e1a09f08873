"""MAANG_NOTIFY: messages about failed runs, to whatever service `apprise` has a URL for.

The URLs hold secrets. So neither they nor what the library says about them is ever shown: a service is called by its place in the
list, and by the URL's scheme if the library knows it.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from typing import TYPE_CHECKING

from maang_cli import settings
from maang_cli.errors import SettingsError, not_installed

if TYPE_CHECKING:
    from apprise import Apprise

log = logging.getLogger("maang")

VARIABLE = "MAANG_NOTIFY"
OFF = "off"
"""Sends nothing, even if the configuration file names services. An empty variable would count as not set."""
SECONDS = 15
"""For all services together, which are sent to at the same time. A service that takes longer does not delay the run."""


def send(title: str, body: str, seconds: float = SECONDS) -> None:
    """Send one message to each service of MAANG_NOTIFY, and wait for them no longer than this. A failure is a warning.

    Raises:
        SettingsError: the library is not installed, or the configuration file can't be read.
    """
    urls = _urls()
    _silence_library()
    failures = dict.fromkeys(range(1, len(urls) + 1), f"no answer within {seconds:g} s")

    def deliver(number: int, url: str) -> None:
        try:
            failures[number] = _deliver(url, title, body)
        except Exception as exc:  # noqa: BLE001 - a service's own code; the others still get the message
            failures[number] = type(exc).__name__

    # Daemons: what they still do when maang is done does not keep it from exiting.
    threads = [threading.Thread(target=deliver, args=each, daemon=True) for each in enumerate(urls, 1)]
    end = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(end - time.monotonic(), 0))
    for number, failure in list(failures.items()):
        if failure:
            log.warning("warning: notification %d of %d was not sent: %s", number, len(urls), failure)


def is_wanted() -> bool:
    """Whether MAANG_NOTIFY names a service.

    Raises:
        SettingsError: the configuration file can't be read.
    """
    return bool(_urls())


def check() -> str:
    """The services of MAANG_NOTIFY, by their URLs' schemes. Nothing is sent.

    Raises:
        SettingsError: one of them is not a URL that the library knows, the library is not installed, or the configuration file
            can't be read.
    """
    urls = _urls()
    _silence_library()
    wrong = [number for number, url in enumerate(urls, 1) if not _service(url)]
    if wrong:
        raise SettingsError(
            f"{VARIABLE}: {_WRONG} (entry {wrong[0]} of {len(urls)})", hint=f"correct {VARIABLE}: see {_SERVICES}"
        )
    return f"{', '.join(url.partition('://')[0] for url in urls)}; nothing was sent"


_SERVICES = "https://github.com/caronc/apprise/wiki"
_WRONG = "not a URL that apprise knows"


def _urls() -> list[str]:
    given = settings.read(settings.Given).notify
    text = given.get_secret_value().strip() if given else ""
    # A URL may have a comma, so one ends a URL only if the next one follows.
    return [] if text in ("", OFF) else re.split(r"[\s,]+(?=[A-Za-z0-9]+://)", text)


def _silence_library() -> None:
    """Import it, and keep its log to itself: it shows parts of the URLs."""
    logging.getLogger("apprise").disabled = True
    try:
        import apprise  # noqa: F401
    except ModuleNotFoundError as exc:
        raise not_installed(f"{VARIABLE} needs apprise, which is not installed", "notify", exc) from exc


def _service(url: str) -> Apprise:
    """The URL's service; false if the library does not know it."""
    import apprise

    # maang limits the time, because the library's own limit would leave a thread behind that keeps maang from exiting.
    asset = apprise.AppriseAsset(app_id="maang", app_desc="maang", async_mode=False, service_timeout=0)
    sender = apprise.Apprise(asset=asset)
    if service := apprise.Apprise.instantiate(url, asset=asset):
        sender.add(service)
    return sender


def _deliver(url: str, title: str, body: str) -> str:
    """Send one message; returns why it failed, or an empty text."""
    import apprise

    if not (service := _service(url)):
        return _WRONG
    sent = service.notify(body, title, notify_type=apprise.NotifyType.FAILURE, body_format=apprise.NotifyFormat.TEXT)
    return "" if sent else f"{url.partition('://')[0]} did not take it"
