"""The two lines of the Python SDK behind one face: what `client.py` calls. The environment decides which line it is."""

import json
import warnings
from contextlib import AsyncExitStack
from importlib.metadata import version

import anyio

warnings.simplefilter("ignore")  # the new line calls what it has of the old era deprecated
OLD = version("mcp").startswith("1.")
LOG_LEVEL = "io.modelcontextprotocol/logLevel"

if OLD:
    import httpx
    from mcp import ClientSession, McpError as RpcError, types
    from mcp.client.streamable_http import streamable_http_client
else:
    import httpx2 as httpx
    import mcp_types as types
    from mcp import Client, MCPError as RpcError
    from mcp.client.streamable_http import streamable_http_client

__all__ = ["OLD", "RpcError", "connect", "httpx"]


class Line:
    """One connected client. `async with connect(url) as client`."""

    def __init__(self, url, max_event=1 << 20):
        self.url, self.max_event = url, max_event
        self.heard, self.sent, self.session_id = [], [], None
        self._news, self._level, self._listens = anyio.Event(), None, {}

    async def __aenter__(self):
        self._stack = AsyncExitStack()
        await self._stack.__aenter__()
        try:
            hooks = {"request": [self._request]}
            http = await self._stack.enter_async_context(httpx.AsyncClient(event_hooks=hooks, timeout=60))
            transport = streamable_http_client(self.url, http_client=http)
            if OLD:
                reader, writer, _ = await self._stack.enter_async_context(transport)
                session = ClientSession(
                    reader, writer, elicitation_callback=self._answer, message_handler=self._message
                )
                self._client = self.session = await self._stack.enter_async_context(session)
                opened = await self._client.initialize()
                self.version, self.server_name = opened.protocolVersion, opened.serverInfo.name
            else:
                client = Client(transport, elicitation_callback=self._answer, message_handler=self._message, cache=None)
                self._client = await self._stack.enter_async_context(client)
                self.session = self._client.session
                self.version, self.server_name = self._client.protocol_version, self._client.server_info.name
            self.modern = self.version >= "2026-07-28"
            return self
        except BaseException as error:
            await self._stack.__aexit__(type(error), error, error.__traceback__)
            raise

    async def __aexit__(self, *error):
        return await self._stack.__aexit__(*error)

    async def _request(self, request):
        self.session_id = request.headers.get("mcp-session-id", self.session_id)
        body = json.loads(request.content) if request.method == "POST" else None
        self.sent.append((request.method, body))

    async def _answer(self, context, params):
        return types.ElicitResult(action="accept", content={"name": "Ada"})

    async def _message(self, message):
        message = getattr(message, "root", message)
        if hasattr(message, "method"):
            params = message.params.model_dump(by_alias=True, mode="json") if message.params else {}
            self.hear(message.method, params)

    def hear(self, method, params):
        self.heard.append((method, params))
        self._news.set()
        self._news = anyio.Event()

    async def hears(self, what, fits, since=0):
        """The first notification that fits, from the one at `since` on."""
        with anyio.move_on_after(10):
            while True:
                found = next((note for note in self.heard[since:] if fits(*note)), None)
                if found:
                    return found
                await self._news.wait()
        raise AssertionError(f"heard no {what}, but {self.heard[since:]}")

    async def tools(self):
        return (await self._client.list_tools()).tools

    async def call(self, name, arguments, progress=None):
        meta = {LOG_LEVEL: self._level} if self._level else None
        return await self._client.call_tool(name, arguments, progress_callback=progress, meta=meta)

    async def resources(self):
        return (await self._client.list_resources()).resources

    async def read(self, uri):
        return (await self._client.read_resource(uri)).contents

    async def prompts(self):
        return (await self._client.list_prompts()).prompts

    async def prompt(self, name, arguments):
        return (await self._client.get_prompt(name, arguments)).messages

    async def complete(self, prompt, argument, value):
        reference = types.PromptReference(type="ref/prompt", name=prompt)
        result = await self._client.complete(reference, {"name": argument, "value": value})
        return result.completion.values

    async def ping(self):
        await self.session.send_ping()

    async def log_level(self, level):
        if self.modern:
            self._level = level
        else:
            await self.session.set_logging_level(level)

    def watch(self, uris=()):
        """Watches lists, and these resources, as long as the context is open."""
        return Watch(self, [str(uri) for uri in uris])


class Watch:
    def __init__(self, line, uris):
        self.line, self.uris = line, uris

    async def __aenter__(self):
        if not self.line.modern:
            for uri in self.uris:
                await self.line.session.subscribe_resource(uri)
            return
        self._stack = AsyncExitStack()
        await self._stack.__aenter__()
        # What its iterator says is what the message handler hears, too.
        await self._stack.enter_async_context(
            self.line._client.listen(
                tools_list_changed=True,
                prompts_list_changed=True,
                resources_list_changed=True,
                resource_subscriptions=self.uris,
            )
        )

    async def __aexit__(self, *error):
        if self.line.modern:
            return await self._stack.__aexit__(*error)
        for uri in self.uris:
            await self.line.session.unsubscribe_resource(uri)


connect = Line
