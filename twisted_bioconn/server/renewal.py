"""The certificate for development, renewed while the server runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from twisted_bioconn.certificates.development import LOCAL_NAMES, DevelopmentAuthority
from twisted_bioconn.certificates.loading import CertifiedKey
from twisted_bioconn.errors import ConfigurationError

#: How often to look whether it is time, in seconds. A machine that slept has to notice, and what
#: went wrong (a full disk) may be mended.
INTERVAL = 3600.0


class Renewal(Service):
    """
    Puts a new certificate to use before the one in use expires.

    @ivar renewed: called when that was done.
    """

    _log = Logger()

    def __init__(
        self,
        authority: DevelopmentAuthority,
        use: Callable[[CertifiedKey], None],
        clock: IReactorTime,
        names: Iterable[str] = LOCAL_NAMES,
    ) -> None:
        """
        @param use: takes a new certificate; it is called for the first one now.
        @param names: what the certificate is for.
        @raise ConfigurationError: the first one cannot be had.
        """
        self._authority = authority
        self._use = use
        self._clock = clock
        self._names = tuple(names)
        self._timer: IDelayedCall | None = None
        self.renewed: Callable[[], object] | None = None
        try:
            first = authority.leaf(self._names)
        except ConfigurationError as error:
            # As long as there is one that is good, a disk that is full keeps nobody from serving.
            kept = authority.kept_leaf(self._names)
            if kept is None:
                raise
            first = kept
            self._log.error("the development certificate is not renewed: {error}", error=error)
        use(first)

    def startService(self) -> None:
        """
        @see: L{Service.startService}
        """
        super().startService()  # type: ignore[no-untyped-call]
        if self._authority.expires_soon:
            self._log.warn(
                "{path} expires on {date}: remove it, and ca-key.pem beside it, to have a new one",
                path=self._authority.certificate_path,
                date=self._authority.not_valid_after.date(),
            )
        self._wait()

    def stopService(self) -> None:
        """
        @see: L{Service.stopService}
        """
        super().stopService()  # type: ignore[no-untyped-call]
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def load(self) -> None:
        """
        Use what is in the directory, where another process may have renewed it.
        """
        try:
            self._use(self._authority.leaf(self._names))
        except ConfigurationError as error:
            self._log.error("the development certificate is not loaded: {error}", error=error)

    def look(self) -> None:
        """
        Look at once whether it is time, and at what is in the directory; where this is not the one
        process that renews, wait for that.
        """
        if self._timer is None:
            return
        self._timer.cancel()
        with self._log.failuresHandled("the development certificate is not loaded"):
            if self._authority.seconds_until_renewal() > 0:
                self.load()
        self._look()

    def _wait(self) -> None:
        # A second more than nothing, for a certificate that ends with its authority.
        seconds = max(1.0, min(INTERVAL, self._authority.seconds_until_renewal()))
        self._timer = self._clock.callLater(seconds, self._look)

    def _look(self) -> None:
        # Whatever goes wrong now, it is looked at again.
        self._timer = self._clock.callLater(INTERVAL, self._look)
        with self._log.failuresHandled("the development certificate is not renewed"):
            if self._authority.seconds_until_renewal() > 0 or self._renew():
                self._timer.cancel()
                self._wait()

    def _renew(self) -> bool:
        try:
            self._use(self._authority.leaf(self._names))
        except ConfigurationError as error:
            self._log.error("the development certificate is not renewed: {error}", error=error)
            return False
        self._log.info("the development certificate is renewed")
        if self.renewed is not None:
            self.renewed()
        return True
