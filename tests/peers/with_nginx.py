"""nginx: its web server and its stream proxy, before ours and behind ours."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.peers.matrix import ClientDriver, Combination, PeerServer, Seen, ServerDriver
from tests.peers.ours import GREETING, Fetch, PeerCase
from tests.peers.processes import Program, on_free_port
from tests.programs import missing, require

_STREAM_MODULE = (
    "/usr/lib/nginx/modules/ngx_stream_module.so",
    "/usr/lib64/nginx/modules/ngx_stream_module.so",
)
"""Where distributions keep it; in other builds it is compiled in."""


def need_streams() -> None:
    """
    See that nginx has what proxies streams.

    @raise SkipTest: it has not; see L{missing}.
    """
    told = subprocess.run([require("nginx"), "-V"], capture_output=True, text=True, check=True)
    is_compiled_in = re.search(r"--with-stream( |$)", told.stderr) is not None
    if not (is_compiled_in or any(Path(each).exists() for each in _STREAM_MODULE)):
        raise missing("nginx has no module for streams: on Debian, libnginx-mod-stream")


async def start(
    case: PeerCase, kind: str, servers: str, log: str = "notice"
) -> tuple[int, Program]:
    """
    Start nginx.

    @param kind: C{"http"} or C{"stream"}.
    @param servers: its server blocks, with C{PORT} where the port's number is to be.
    @param log: the level of its log, which goes to stderr.
    @return: the port, and the program.
    """
    module = ""
    if kind == "stream":
        need_streams()
        module = "".join(f"load_module {path};" for path in _STREAM_MODULE if Path(path).exists())
    temporary = ""
    if kind == "http":
        temporary = "access_log off;" + "".join(
            f"{name}_temp_path {case.directory}/{name};"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )

    async def on(port: int) -> Program:
        configuration = case.directory / "nginx.conf"
        configuration.write_text(
            f"{module} daemon off; master_process off; pid {case.directory}/nginx.pid;\n"
            # The user in whose name the tests run; without a master, nginx changes to no other.
            f"error_log stderr {log}; events {{ }}\n"
            f"{kind} {{\n{temporary}\n{servers.replace('PORT', str(port))}\n}}\n"
        )
        program = case.run_program(
            "nginx", "-p", case.directory, "-c", configuration, "-e", "stderr"
        )
        try:
            await program.wait_for("event method")
        except AssertionError:
            if f'unknown directive "{kind}"' in program.said:
                raise missing(f"nginx has no module {kind}") from None
            raise
        return program

    return await on_free_port(on)


def serving(case: PeerCase, certificate: bool = False, versions: str = "TLSv1.2 TLSv1.3") -> str:
    """What a server block needs to serve TLS on C{PORT}."""
    material = case.material
    block = (
        "listen 127.0.0.1:PORT ssl;"
        f" ssl_certificate {material.server}; ssl_certificate_key {material.server_key};"
        f" ssl_protocols {versions}; ssl_session_cache shared:sessions:1m;"
    )
    if certificate:
        # Its depth counts the certificates below the root.
        block += f" ssl_client_certificate {material.root}; ssl_verify_client on;"
        block += " ssl_verify_depth 2;"
    return block


def proxying(case: PeerCase, certificate: bool = False, versions: str = "TLSv1.2 TLSv1.3") -> str:
    """What a server block needs to be a client of ours."""
    material = case.material
    block = (
        f"proxy_ssl_trusted_certificate {material.root}; proxy_ssl_verify on;"
        " proxy_ssl_verify_depth 2; proxy_ssl_name localhost; proxy_ssl_server_name on;"
        f" proxy_ssl_session_reuse on; proxy_ssl_protocols {versions};"
    )
    if certificate:
        block += f" proxy_ssl_certificate {material.client};"
        block += f" proxy_ssl_certificate_key {material.client_key};"
    return block


def _server(kind: str) -> ServerDriver:
    async def server(case: PeerCase, how: Combination) -> PeerServer:
        """It answers with what it knows of the connection."""
        facts = '"$ssl_protocol $ssl_session_reused end"'
        answer = f"return 200 {facts};" if kind == "http" else f"return {facts};"
        block = f"server {{ {serving(case, how.certificate, how.version)} {answer} }}"
        port, _ = await start(case, kind, block)

        async def seen(answers: list[str]) -> list[Seen]:
            matches = [re.search(r"(TLS\S+) (\S) end$", each) for each in answers]
            return [Seen(match[1], match[2] == "r") for match in matches if match is not None]

        return PeerServer(port, seen)

    return server


def _client(kind: str) -> ClientDriver:
    async def client(case: PeerCase, port: int, how: Combination) -> list[Seen]:
        """Each connection is for a request that comes to nginx without TLS."""
        block = "listen 127.0.0.1:PORT; " + proxying(case, how.certificate, how.version)
        if kind == "http":
            block += f" location / {{ proxy_pass https://127.0.0.1:{port}; }}"
        else:
            block += f" proxy_pass 127.0.0.1:{port}; proxy_ssl on;"
        own_port, program = await start(case, kind, f"server {{ {block} }}", "debug")
        for _ in range(how.connections):
            fetch = await case.connect_plain(own_port, Fetch())
            case.assertIn(GREETING.decode(), await fetch.answer)
        for _ in range(how.connections):
            await program.wait_for("SSL: TLS")
        connections = program.said.split("SSL: TLS")[1:]
        return [
            Seen("TLS" + each.split(",", 1)[0], "SSL reused session" in each)
            for each in connections
        ]

    return client


http_server = _server("http")
stream_server = _server("stream")
http_client = _client("http")
stream_client = _client("stream")
