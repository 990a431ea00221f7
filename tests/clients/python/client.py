"""One client against one server behind ferry: client.py SERVER ERA URL LOG. A line per case, `end` at the end."""

import json
import os
import random
import re
import signal
import sys
import time
import traceback
from pathlib import Path

import anyio
from lines import OLD, RpcError, connect, httpx

server, era, url, log = sys.argv[1:]
facts = json.loads((Path(__file__).parent / "servers.json").read_text())[server]
modern = era == "modern"
cases = {}


def case(applies=True):
    """A case, for servers and eras where it applies."""

    def add(body):
        if applies:
            cases[body.__name__] = body

    return add


def is_error(result):
    return result.isError if OLD else result.is_error


def text(result):
    return "".join(getattr(block, "text", "") for block in result.content)


async def call_with(client, word):
    call = json.loads(json.dumps(facts["call"], ensure_ascii=False).replace("§", word))
    result = await client.call(call["tool"], call["arguments"])
    assert not is_error(result) and call["says"] in text(result), result


async def until(what, fact):
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        value = await fact()
        if value:
            return
        await anyio.sleep(0.02)
    raise AssertionError(f"waited in vain for {what}")


def last_child():
    started = re.findall(r"started pid=(\d+) generation=(\d+)", Path(log).read_text())[-1]
    return int(started[0]), int(started[1])


def kill_child():
    pid, generation = last_child()
    os.kill(pid, signal.SIGKILL)
    return generation


@case()
async def connect_(client):
    assert client.version == ("2026-07-28" if modern else "2025-11-25"), client.version
    assert client.server_name == facts["name"], client.server_name


@case()
async def tools(client):
    names = {tool.name for tool in await client.tools()}
    assert set(facts["tools"]) <= names, names


@case()
async def call(client):
    await call_with(client, "a")


@case()
async def unknown(client):
    try:
        result = await client.call("no-such-tool", {})
        outcome = "result" if is_error(result) else result
    except RpcError as error:
        outcome = error.error.code
    assert outcome == facts["unknown"], outcome


@case("resource" in facts)
async def resources(client):
    assert await client.resources()
    contents = await client.read(facts["resource"]["uri"])
    assert facts["resource"]["says"] in contents[0].text, contents


@case("resource" in facts)
async def no_resource(client):
    try:
        outcome = await client.read("test://nothing")
    except RpcError as error:
        outcome = error.error.code
    assert outcome in (-32002, -32602, -32603, 0), outcome


@case("prompt" in facts)
async def prompts(client):
    wanted = facts["prompt"]
    assert wanted["name"] in [prompt.name for prompt in await client.prompts()]
    messages = await client.prompt(wanted["name"], wanted["arguments"])
    assert wanted["says"] in messages[0].content.text, messages


@case("complete" in facts)
async def complete(client):
    wanted = facts["complete"]
    values = await client.complete(wanted["prompt"], wanted["argument"], wanted["value"])
    assert wanted["gives"] in values, values


async def do_slow(client):
    slow, seen = facts["slow"], []

    async def progress(done, total, message):
        seen.append(done)

    result = await client.call(slow["tool"], slow["arguments"], progress)
    assert slow["says"] in text(result), result
    assert seen == list(range(1, slow["steps"] + 1)), seen


@case("slow" in facts)
async def progress(client):
    await do_slow(client)


@case("endless" in facts)
async def cancel(client):
    async def cancels():
        return int(text(await client.call("cancelled", {}))) if "counts_cancels" in facts else 0

    before = await cancels()
    async with anyio.create_task_group() as group:

        async def stop(done, total, message):
            group.cancel_scope.cancel()

        await client.call(facts["endless"]["tool"], facts["endless"]["arguments"], stop)
        raise AssertionError("it has an end")
    if OLD:
        # The old line leaves it to its user to tell the server, who has to guess the request's id.
        await tell_cancelled(client)
    if "counts_cancels" in facts:

        async def more():
            return await cancels() > before

        await until("the server to hear of it", more)
    await call_with(client, "a")


async def tell_cancelled(client):
    from mcp import types

    calls = [body["id"] for _, body in client.sent if body and body.get("method") == "tools/call"]
    note = types.CancelledNotification(params=types.CancelledNotificationParams(requestId=calls[-1]))
    await client.session.send_notification(types.ClientNotification(note))


@case(not modern)
async def ping(client):
    await client.ping()


@case()
async def equal_ids(client):
    async with connect(url) as one, connect(url) as two, anyio.create_task_group() as group:
        for name, other in (("1", one), ("2", two)):
            if "slow" in facts:
                group.start_soon(do_slow, other)
            for word in "abc":
                group.start_soon(call_with, other, word + name)
    ids = [{body["id"] for _, body in each.sent if body and body.get("method") == "tools/call"} for each in (one, two)]
    assert ids[0] == ids[1], "else it tests nothing"


@case("ask" in facts or (modern and "ask_modern" in facts))
async def ask(client):
    wanted = facts.get("ask") or facts["ask_modern"]
    result = await client.call(wanted["tool"], {})
    assert wanted["says"] in text(result), result


@case("log" in facts)
async def log_(client):
    slow = facts["slow"]
    unasked = "no_set_level" in facts and not modern
    try:
        await client.log_level("debug")
        assert not unasked
    except RpcError as error:
        # Such a server logs as it likes, and who calls it hears that.
        assert unasked and error.error.code == -32601, error
    await client.call(slow["tool"], slow["arguments"])
    await client.hears("log", lambda method, _: method == "notifications/message")
    if unasked:
        return
    await client.log_level("error")
    since = len(client.heard)
    await client.call(slow["tool"], slow["arguments"])
    await call_with(client, "a")
    logs = [note for note in client.heard[since:] if note[0] == "notifications/message"]
    assert not logs, logs


@case("changed" in facts)
async def changed(client):
    wanted = facts["changed"]
    async with client.watch():
        since = len(client.heard)
        await client.call(wanted["tool"], wanted["arguments"])
        await client.hears(wanted["method"], lambda method, _: method == wanted["method"], since)


@case("notes" in facts)
async def updated(client):
    def structured(result):
        return result.structuredContent if OLD else result.structured_content

    async def add():
        return structured(await client.call("add_note", {"text": "one"}))

    async def edit(note):
        await client.call("edit_note", {"id": note["id"], "text": str(random.random())})

    def of(note):
        return lambda method, params: method == "notifications/resources/updated" and params["uri"] == note["uri"]

    left, kept = await add(), await add()
    async with client.watch([kept["uri"]]):
        async with client.watch([left["uri"]]):
            since = len(client.heard)
            await edit(left)
            await client.hears(f"update of {left['uri']}", of(left), since)
        since = len(client.heard)
        await edit(left)
        await edit(kept)
        await client.hears(f"update of {kept['uri']}", of(kept), since)
        assert not any(of(left)(*note) for note in client.heard[since:]), "nobody watches that one any more"


@case("big" in facts and not OLD)
async def big_late(client):
    """More than the new line takes in one event of a stream; ferry has not begun one after 5 s."""
    result = await client.call("big", {"bytes": 2 << 20, "after_ms": 5000, "progress": False})
    assert len(text(result)) == 2 << 20


@case("big" in facts)
async def big(client):
    async def progress(done, total, message):
        pass

    result = await client.call("big", {"bytes": 2 << 20, "after_ms": 0, "progress": True}, progress)
    assert len(text(result)) == 2 << 20


@case()
async def restart(client):
    """What is in flight when the server dies gets an error; what comes after is served, in the same session."""
    session = client.session_id
    async with client.watch():
        since = len(client.heard)
        if "endless" in facts:
            generation = None

            async def kill(done, total, message):
                nonlocal generation
                generation = generation or kill_child()

            try:
                outcome = await client.call(facts["endless"]["tool"], facts["endless"]["arguments"], kill)
            except RpcError as error:
                outcome = error.error.code
            assert outcome == -31002, outcome
        else:
            ends = Path(log).read_text().count("it has ended")
            generation = kill_child()

            async def noticed():
                return Path(log).read_text().count("it has ended") > ends

            await until("ferry to notice", noticed)
        await call_with(client, "a")
        assert last_child()[1] == generation + 1
        assert client.session_id == session
        if "hint" in facts:
            await client.hears(facts["hint"], lambda method, _: method == facts["hint"], since)


def report(name, error=None):
    name = name.rstrip("_")
    print(f"FAIL {name} {error}".replace("\n", " | ") if error else f"PASS {name}", flush=True)


async def attempt(name, work):
    try:
        with anyio.fail_after(30):
            await work
        report(name)
    except Exception:
        report(name, traceback.format_exc(limit=-3))


async def main():
    if modern and OLD:
        # It can only be told so, in words that help.
        try:
            async with connect(url):
                words = None
        except BaseException as error:
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            words = str(error) or "no words"
        if words is None:
            report("connected", "it was not refused")
        else:
            report("refused", None if "2026-07-28" in words else words)
    else:
        async with connect(url) as client:
            for name, body in cases.items():
                await attempt(name, body(client))
            session = client.session_id
        if not modern:
            await attempt("delete", deleted(session))
    print("end", flush=True)


async def deleted(session):
    """Both lines end their session as they close."""
    headers = {"accept": "application/json, text/event-stream", "mcp-session-id": session}
    async with httpx.AsyncClient() as http:
        response = await http.post(url, headers=headers, json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    assert response.status_code == 404, response


anyio.run(main)
