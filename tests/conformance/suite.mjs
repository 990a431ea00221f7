// Runs the suite against every leg, and against servers that are dead, and says what came of it.
//
//   node suite.mjs LEGS EXPECTED RESULTS    a leg a line: NAME REVISION URL
//
// A scenario has passed if a check of it succeeded and none failed, warned or was skipped. The suite counts one that
// warns, or says nothing, as passed, and a dead server gets some of those. What a dead server gets is nothing to be
// proud of: each such check needs other evidence, in evidence.mjs.
import { execFile } from 'node:child_process';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { createServer } from 'node:http';
import { parse } from 'yaml';
import { evidence } from './evidence.mjs';

const SUITE = 'node_modules/@modelcontextprotocol/conformance';
// Some checks look for half a second: more at once than this would be a test of the machine.
const AT_ONCE = 2;

const [, , legsFile, expectedFile, results] = process.argv;
const lines = file => readFileSync(file, 'utf8').split('\n').filter(line => line && !line.startsWith('#'));
const legs = lines(legsFile).map(line => line.split(' ')).map(([name, revision, url]) => ({ name, revision, url }));
const expected = new Map(lines(expectedFile).map(line => line.split(/: (.*)/, 2)));

// The suite's own checks of one run: scenario → checks.
async function run(name, revision, url) {
  const into = `${results}/${name}`;
  const line = [`${SUITE}/dist/index.js`, 'server', '--url', url, '--requirements', revision, '-o', into];
  const output = await new Promise(resolve =>
    execFile(process.execPath, line, { timeout: 240_000, maxBuffer: 2 ** 28 }, (_, ...both) => resolve(both.join('')))
  );
  const found = new Map();
  for (const place of existsSync(into) ? readdirSync(into) : []) {
    const scenario = /^server-(.*)-\d{4}-\d\d-\d\dT/.exec(place)[1];
    const checks = `${into}/${place}/checks.json`;
    // A scenario that threw has none.
    if (existsSync(checks)) found.set(scenario, JSON.parse(readFileSync(checks, 'utf8')));
  }
  if (found.size === 0) console.log(`the suite did not run: ${output.slice(-500)}`);
  return found;
}

// Servers that are dead, each in its way: nobody listens, or whatever is asked is refused, or gets an empty result.
async function answering(status, part) {
  const server = createServer(async (request, response) => {
    let body = '';
    for await (const piece of request) body += piece;
    const { id } = body ? JSON.parse(body) : {};
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify({ jsonrpc: '2.0', id, ...part }));
  });
  await new Promise(resolve => server.listen(0, '127.0.0.1', resolve));
  return server;
}
const refusing = (status, code) => answering(status, { error: { code, message: 'no' } });
const closed = await answering(200, {});
const servers = {
  closed,
  failing: await refusing(500, -32603),
  invalid: await refusing(400, -32602),
  unknown: await refusing(404, -32601),
  empty: await answering(200, { result: {} }),
};
const dead = Object.entries(servers).map(([name, server]) => {
  return { name, url: `http://127.0.0.1:${server.address().port}/mcp` };
});
await new Promise(resolve => closed.close(resolve));

const waiting = [];
const revisions = [...new Set(legs.map(leg => leg.revision))];
const baseline = new Map(revisions.map(revision => [revision, dead.map(({ name, url }) => ({ name, revision, url }))]));
for (const one of [...legs, ...[...baseline.values()].flat()]) {
  waiting.push(async () => (one.found = await run(`${one.name}-${one.revision}`, one.revision, one.url)));
}
await Promise.all(Array.from({ length: AT_ONCE }, async () => {
  while (waiting.length > 0) await waiting.shift()();
}));

const succeeded = (found, scenario, id) =>
  (found.get(scenario) ?? []).some(check => check.id === id && check.status === 'SUCCESS');
const validated = (found, scenario) =>
  found.get(scenario)?.find(({ id }) => id === 'wire-schema-valid')?.details.messagesValidated ?? 0;
const used = new Set();
const alsoDead = new Map();

// Which dead servers get that check, too.
const dying = ({ revision }, scenario, id) =>
  baseline.get(revision).filter(({ found }) => succeeded(found, scenario, id)).map(({ name }) => name);

// What is wrong with one check that succeeded, if a dead server gets it too and nothing else shows it.
async function doubt(leg, scenario, check) {
  const closed = baseline.get(leg.revision)[0];
  if (check.id === 'wire-schema-valid') {
    // It counts what the suite sends, too.
    return validated(leg.found, scenario) > validated(closed.found, scenario) ? undefined : 'no message was validated';
  }
  const by = dying(leg, scenario, check.id);
  if (by.length === 0) return undefined;
  const key = `${scenario}/${check.id}`;
  const { is, by: other, holds } = evidence[key] ?? {};
  used.add(key);
  alsoDead.set(key, `${by.join(', ')}; shown by ${other ?? is}`);
  const living = (scenario, id) => succeeded(leg.found, scenario, id) && dying(leg, scenario, id).length === 0;
  const look = async () => holds?.(check.details ?? {}, leg.url);
  const shown = other ? living(...other.split('/')) : await look().catch(() => false);
  return shown ? undefined : `a dead server (${by.join(', ')}) gets ${check.id} too, and nothing else shows it`;
}

async function wrong(leg, scenario) {
  const checks = leg.found.get(scenario);
  if (!checks) return ['it did not run'];
  const bad = checks.filter(({ status }) => status !== 'SUCCESS' && status !== 'INFO');
  if (bad.length > 0) return bad.map(({ id, errorMessage }) => `${id}: ${errorMessage}`);
  const good = checks.filter(({ status }) => status === 'SUCCESS');
  if (!good.some(({ id }) => id !== 'wire-schema-valid')) return ['no check of it says anything'];
  return (await Promise.all(good.map(check => doubt(leg, scenario, check)))).filter(Boolean);
}

const report = [];
for (const leg of legs) {
  const { server: scored, not_scored } = parse(readFileSync(`${SUITE}/requirements/${leg.revision}.yaml`, 'utf8'));
  const others = not_scored.filter(({ leg: role }) => role === 'server').map(({ scenario }) => scenario);
  for (const [kind, scenarios] of Object.entries({ scored, others })) {
    for (const scenario of scenarios) {
      const key = `${leg.name} ${scenario}`;
      const reason = expected.get(key);
      expected.delete(key);
      let why = (await wrong(leg, scenario)).join('; ');
      let verdict = why ? 'FAILED' : 'passed';
      if (reason && why) [verdict, why] = ['expected', `${reason} (${why})`];
      if (reason && verdict === 'passed') [verdict, why] = ['FAILED', `it passed; expected to fail: ${reason}`];
      report.push({ leg: leg.name, revision: leg.revision, kind, scenario, verdict, why });
    }
  }
}
const stale = [...expected.keys()].filter(key => legs.some(leg => key.startsWith(`${leg.name} `)));
const stray = (scenario, why) => report.push({ leg: 'no leg', verdict: 'FAILED', scenario, why });
for (const key of stale) stray(key, 'it is in expected-failures.txt and was not tried');
const idle = revisions.length > 1 ? Object.keys(evidence).filter(key => !used.has(key)) : [];
for (const key of idle) stray(key, 'it is in evidence.mjs and no dead server gets it');

console.log('Checks that a dead server gets too:');
for (const [key, why] of [...alsoDead].sort()) console.log(`  ${key}: ${why}`);
for (const verdict of ['expected', 'FAILED']) {
  for (const one of report.filter(one => one.verdict === verdict)) {
    const said = verdict === 'expected' ? 'failed as expected' : verdict;
    console.log(`${said}: ${one.leg} ${one.scenario}: ${one.why.slice(0, 1500)}`);
  }
}
const counted = (leg, kind) => {
  const of = verdict => report.filter(one => one.leg === leg && one.kind === kind && one.verdict === verdict).length;
  const failed = of('FAILED') ? `, ${of('FAILED')} FAILED` : '';
  return `${of('passed')} passed${of('expected') ? `, ${of('expected')} failed as expected` : ''}${failed}`;
};
const row = cells => console.log(cells.map((cell, at) => cell.padEnd([16, 12, 38, 0][at])).join(''));
console.log();
row(['leg', 'revision', 'scored', 'not scored']);
for (const { name, revision } of legs) row([name, revision, counted(name, 'scored'), counted(name, 'others')]);
const total = verdict => report.filter(one => one.verdict === verdict).length;
console.log(`${total('passed')} passed, ${total('FAILED')} failed`);
process.exit(total('FAILED') === 0 && total('passed') > 0 ? 0 : 1);
