"""A server of the Python 2.x line: both eras, the same tools as the others beside it."""

import warnings
from typing import Annotated

import anyio
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.resolve import Elicit, Resolve
from pydantic import BaseModel

warnings.simplefilter("ignore")  # what it has of the old era it calls deprecated
server = MCPServer("python-2")
cancels = 0


class Name(BaseModel):
    name: str


def who() -> Elicit[Name]:
    return Elicit("Who?", Name)


@server.tool()
def echo(message: str) -> str:
    return message


@server.tool()
async def slow(steps: int, interval_ms: int, ctx: Context) -> str:
    global cancels
    try:
        for step in range(1, steps + 1):
            await anyio.sleep(interval_ms / 1000)
            await ctx.report_progress(step, steps)
            await ctx.log("info", f"step {step}", logger_name="slow")
    except anyio.get_cancelled_exc_class():
        cancels += 1
        raise
    return f"did {steps}"


@server.tool()
def cancelled() -> str:
    return str(cancels)


@server.tool()
async def announce(ctx: Context) -> str:
    await ctx.notify_tools_changed()  # for those who listen
    if ctx.session.protocol_version < "2026-07-28":
        await ctx.session.send_tool_list_changed()
    return "announced"


@server.tool()
def ask(name: Annotated[Name, Resolve(who)]) -> str:
    return f"Hello, {name.name}!"


@server.tool(structured_output=False)
async def big(bytes: int, after_ms: int, progress: bool, ctx: Context) -> str:
    if progress:
        await ctx.report_progress(1)
    await anyio.sleep(after_ms / 1000)
    return "x" * bytes


@server.resource("test://greeting")
def greeting() -> str:
    return "hello"


@server.prompt()
def hello(name: str) -> str:
    return f"Say hello to {name}"


server.run()
