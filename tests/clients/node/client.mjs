// One client against one server behind ferry: client.mjs LINE SERVER ERA URL LOG. A line per case, `end` at the end.
// LINE: typescript-1, typescript-2, or typescript-2-default, which does not look for the new era.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { connect } from './lines.mjs';

const [line, server, era, url, log] = process.argv.slice(2);
const facts = JSON.parse(readFileSync(new URL('./servers.json', import.meta.url)))[server];
const modern = era === 'modern';
const text = result => result.content.map(block => block.text ?? '').join('');
const filled = (value, word) => JSON.parse(JSON.stringify(value).replaceAll('§', word));
const callWith = async (client, word) => {
  const { tool, arguments: args, says } = filled(facts.call, word);
  const result = await client.call(tool, args);
  assert.ok(!result.isError && text(result).includes(says), JSON.stringify(result));
};
const until = async (what, fact) => {
  for (const deadline = Date.now() + 15_000; Date.now() < deadline; ) {
    const value = await fact();
    if (value) return value;
    await new Promise(resolve => setTimeout(resolve, 20));
  }
  throw new Error(`waited in vain for ${what}`);
};
const lastChild = () => {
  const started = [...readFileSync(log, 'utf8').matchAll(/started pid=(\d+) generation=(\d+)/g)].at(-1);
  return { pid: Number(started[1]), generation: Number(started[2]) };
};
const killChild = () => {
  const child = lastChild();
  process.kill(child.pid, 'SIGKILL');
  return child.generation;
};

const cases = {
  connect: async client => {
    assert.equal(client.version, modern ? '2026-07-28' : '2025-11-25');
    assert.equal(client.serverName, facts.name);
    assert.equal(Boolean(client.session()), !modern);
  },
  tools: async client => {
    const names = (await client.tools()).map(tool => tool.name);
    for (const name of facts.tools) assert.ok(names.includes(name), `${name} is not among ${names}`);
  },
  call: client => callWith(client, 'a'),
  unknown: async client => {
    const outcome = await client.call('no-such-tool', {}).then(result => (result.isError ? 'result' : result), error => error.code);
    assert.equal(outcome, facts.unknown);
  },
  resources: facts.resource && (async client => {
    assert.ok((await client.resources()).length > 0);
    const contents = await client.read(facts.resource.uri);
    assert.ok(contents[0].text.includes(facts.resource.says), JSON.stringify(contents));
  }),
  no_resource: facts.resource && (async client => {
    const outcome = await client.read('test://nothing').then(() => 'read', error => error.code);
    assert.ok([-32002, -32602, -32603, 0].includes(outcome), `${outcome}`);
  }),
  prompts: facts.prompt && (async client => {
    const { name, arguments: args, says } = facts.prompt;
    assert.ok((await client.prompts()).some(prompt => prompt.name === name));
    const messages = await client.prompt(name, args);
    assert.ok(messages[0].content.text.includes(says), JSON.stringify(messages));
  }),
  complete: facts.complete && (async client => {
    const { prompt, argument, value, gives } = facts.complete;
    const values = await client.complete(prompt, argument, value);
    assert.ok(values.includes(gives), `${values}`);
  }),
  progress: facts.slow && (async client => {
    const { tool, arguments: args, steps, says } = facts.slow;
    const seen = [];
    const result = await client.call(tool, args, { onprogress: step => seen.push(step.progress) });
    assert.ok(text(result).includes(says), JSON.stringify(result));
    assert.deepEqual(seen, Array.from({ length: steps }, (_, index) => index + 1));
  }),
  cancel: facts.endless && (async client => {
    const cancels = async () => (facts.counts_cancels ? Number(text(await client.call('cancelled', {}))) : 0);
    const before = await cancels();
    const stop = new AbortController();
    const { tool, arguments: args } = facts.endless;
    const outcome = await client
      .call(tool, args, { signal: stop.signal, onprogress: () => stop.abort('enough'), resetTimeoutOnProgress: true })
      .then(() => 'answered', error => String(error));
    assert.match(outcome, /enough|abort/i);
    if (facts.counts_cancels) await until('the server to hear of it', async () => (await cancels()) > before);
    await callWith(client, 'a');
  }),
  ping: !modern && (client => client.ping()),
  equal_ids: async client => {
    const [one, two] = [await connect(line, url), await connect(line, url)];
    try {
      const words = ['a', 'b', 'c'];
      const slow = async client => {
        if (!facts.slow) return;
        const seen = [];
        const { tool, arguments: args, steps, says } = facts.slow;
        const result = await client.call(tool, args, { onprogress: step => seen.push(step.progress) });
        assert.ok(text(result).includes(says));
        assert.equal(seen.length, steps, `its own progress only: ${seen}`);
      };
      await Promise.all([slow(one), slow(two), ...words.flatMap(word => [callWith(one, `${word}1`), callWith(two, `${word}2`)])]);
      const ids = client => client.sent.filter(({ body }) => body?.method === 'tools/call').map(({ body }) => body.id);
      assert.deepEqual(ids(one).sort(), ids(two).sort(), 'else it tests nothing');
    } finally {
      await one.close();
      await two.close();
    }
  },
  ask: (facts.ask ?? (modern && facts.ask_modern)) && (async client => {
    const { tool, says } = facts.ask ?? facts.ask_modern;
    const result = await client.call(tool, {});
    assert.ok(text(result).includes(says), JSON.stringify(result));
  }),
  log: facts.log && (async client => {
    const { tool, arguments: args } = facts.slow;
    const logs = from => client.heard.slice(from).filter(note => note.method === 'notifications/message');
    if (facts.no_set_level && !modern) {
      // Such a server logs as it likes, and who calls it hears that.
      await assert.rejects(client.logLevel('debug'), { code: -32601 });
      await client.call(tool, args, {});
      await client.hears('log', note => note.method === 'notifications/message');
      return;
    }
    await client.logLevel('debug');
    await client.call(tool, args, {});
    await client.hears('log', note => note.method === 'notifications/message');
    await client.logLevel('error');
    const from = client.heard.length;
    await client.call(tool, args, {});
    await callWith(client, 'a');
    assert.deepEqual(logs(from), []);
  }),
  changed: facts.changed && (async client => {
    const { tool, arguments: args, method } = facts.changed;
    const end = await client.watch();
    const from = client.heard.length;
    await client.call(tool, args);
    await client.hears(method, note => note.method === method, from);
    await end();
  }),
  updated: facts.notes && (async client => {
    const add = async () => (await client.call('add_note', { text: 'one' })).structuredContent;
    const [left, kept] = [await add(), await add()];
    const edit = note => client.call('edit_note', { id: note.id, text: `${Math.random()}` });
    const of = note => heard => heard.method === 'notifications/resources/updated' && heard.params.uri === note.uri;
    const endLeft = await client.watch([left.uri]);
    const endKept = await client.watch([kept.uri]);
    let from = client.heard.length;
    await edit(left);
    await client.hears(`update of ${left.uri}`, of(left), from);
    await endLeft();
    from = client.heard.length;
    await edit(left);
    await edit(kept);
    await client.hears(`update of ${kept.uri}`, of(kept), from);
    assert.ok(!client.heard.slice(from).some(of(left)), 'nobody watches that one any more');
    await endKept();
  }),
  /** A call whose stream is cut twice still returns, and no progress is lost: the client comes back for the rest. */
  cut: !modern && facts.notes && line !== 'typescript-2-default' && (async client => {
    client.cuts.left = 2;
    const seen = [];
    const args = { to: 20, interval_ms: 200 };
    const result = await client.call('count', args, { onprogress: step => seen.push(step.progress) });
    assert.equal(client.cuts.made, 2, 'else it tests nothing');
    assert.equal(text(result), 'Counted to 20.');
    assert.deepEqual(seen, Array.from({ length: 20 }, (_, index) => index + 1));
  }),
  big: facts.big && (async client => {
    const result = await client.call('big', { bytes: 2 << 20, after_ms: 0, progress: true }, { onprogress: () => {} });
    assert.equal(text(result).length, 2 << 20);
  }),
  /** What is in flight when the server dies gets an error at once; what comes after it is served, in the same session. */
  restart: async client => {
    const session = client.session();
    const end = await client.watch();
    const from = client.heard.length;
    let generation;
    if (facts.endless) {
      const { tool, arguments: args } = facts.endless;
      const seen = Promise.withResolvers();
      const outcome = client
        .call(tool, args, { onprogress: seen.resolve, resetTimeoutOnProgress: true })
        .then(result => result, error => error.code);
      await seen.promise;
      client.sentBeforeEnd = client.sent.length;
      generation = killChild();
      assert.equal(await outcome, -31002);
    } else {
      const ends = () => readFileSync(log, 'utf8').match(/it has ended/g)?.length ?? 0;
      const before = ends();
      generation = killChild();
      await until('ferry to notice', () => ends() > before);
    }
    await callWith(client, 'a');
    assert.equal(lastChild().generation, generation + 1);
    assert.equal(client.session(), session);
    if (facts.hint) await client.hears(facts.hint, note => note.method === facts.hint, from);
    await end();
  },
  /**
   * An error as the last event of a stream makes the old line ask for the rest of that stream: once, and no more.
   * It waits as long as ferry's `retry` says, 5 s, so a second time would come within twice that.
   */
  quiet: line === 'typescript-1' && facts.notes && (async client => {
    await new Promise(resolve => setTimeout(resolve, 12_000)); // what shall not happen has no sign to wait for
    const asked = client.sent.slice(client.sentBeforeEnd).filter(({ resumes }) => resumes).map(({ resumes }) => resumes);
    assert.equal(new Set(asked).size, asked.length, `${asked}`);
    assert.ok(asked.length > 0, 'it does not ask at all any more: this case can go');
  }),
  delete: !modern && (async client => {
    const session = client.session();
    await client.terminate();
    const response = await fetch(url, {
      method: 'POST',
      headers: { 'content-type': 'application/json', accept: 'application/json, text/event-stream', 'mcp-session-id': session },
      body: JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/list' }),
    });
    assert.equal(response.status, 404);
  }),
};

const report = (name, error) => console.log(error ? `FAIL ${name} ${String(error.stack ?? error).replaceAll('\n', ' | ')}` : `PASS ${name}`);
const within = (work, ms = 30_000) => {
  let timer;
  const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error(`no end after ${ms} ms`)), ms)));
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
};

if (modern && line !== 'typescript-2') {
  // It can only be told so, in words that help.
  const outcome = await within(connect(line, url)).then(() => 'connected', error => `${error.message}`);
  if (outcome === 'connected') report('connected', 'it was not refused');
  else report('refused', outcome.includes('2026-07-28') ? undefined : outcome);
} else {
  const client = await within(connect(line, url)).catch(error => {
    report('connect', error);
    process.exit(1);
  });
  for (const [name, body] of Object.entries(cases)) {
    if (!body) continue;
    await within(body(client)).then(() => report(name), error => report(name, error ?? 'rejected'));
  }
  await client.close();
}
console.log('end');
process.exit(0);
