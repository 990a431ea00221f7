"""A server of the Python 1.x line: the same tools as the others beside it, but for `ask`."""

import anyio
from mcp.server.fastmcp import Context, FastMCP

server = FastMCP("python-1")
cancels = 0


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
            await ctx.info(f"step {step}", logger_name="slow")
    except anyio.get_cancelled_exc_class():
        cancels += 1
        raise
    return f"did {steps}"


@server.tool()
def cancelled() -> str:
    return str(cancels)


@server.tool()
async def announce(ctx: Context) -> str:
    await ctx.session.send_tool_list_changed()
    return "announced"


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
