// What shows that a check is right which a dead server gets, too: another check that only a living one gets (`by`), or
// a look at what was answered (`is` in words, `holds` in code).

const MODERN = '2026-07-28';
const CAPABILITIES = 'io.modelcontextprotocol/clientCapabilities';

// A server that refuses everything refuses this, too; one that serves what is in order knows what it refuses.
const refused = (by, scenario, ...checks) => Object.fromEntries(checks.map(check => [`${scenario}/${check}`, { by }]));

// The messages that answer a call of a modern server's tool.
async function call(url, name, capabilities, meta) {
  const version = { 'io.modelcontextprotocol/protocolVersion': MODERN };
  const _meta = { ...version, [CAPABILITIES]: capabilities, ...meta };
  const headers = {
    'content-type': 'application/json',
    accept: 'application/json, text/event-stream',
    'mcp-protocol-version': MODERN,
    'mcp-method': 'tools/call',
    'mcp-name': name,
  };
  const body = JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/call', params: { name, arguments: {}, _meta } });
  const answer = await (await fetch(url, { method: 'POST', headers, body })).text();
  const events = answer.split('\n').filter(line => line.startsWith('data:')).map(line => line.slice(5));
  return (events.length > 0 ? events : [answer]).map(event => JSON.parse(event));
}
const says = (message, words) => JSON.stringify(message ?? null).includes(words);
const asksAgain = ({ result }) => says(result, '"resultType":"input_required"') && says(result, 'What is your name?');

export const evidence = {
  ...refused(
    'server-stateless/sep-2575-server-implements-discover',
    'server-stateless',
    'sep-2575-request-meta-invalid-missing-meta',
    'sep-2575-request-meta-invalid-missing-protocol-version',
    'sep-2575-request-meta-invalid-missing-client-capabilities',
    'sep-2575-http-server-meta-invalid-400',
    'sep-2575-http-server-unsupported-version-400',
    'sep-2575-http-server-method-not-found-404',
    'sep-2575-http-server-method-not-found-404-initialize',
    'sep-2575-http-server-method-not-found-404-logging-setlevel',
    'sep-2575-http-server-method-not-found-404-ping',
    'sep-2575-http-server-method-not-found-404-resources-subscribe',
    'sep-2575-http-server-method-not-found-404-resources-unsubscribe',
  ),
  ...refused(
    'tasks-lifecycle/sep-2663-tasks-get-status-completed',
    'tasks-dispatch-and-envelope',
    'sep-2663-tasks-get-invalid-task-id-32602',
    'sep-2663-tasks-result-removed-method-not-found',
    'tasks-removed-tasks-list',
  ),
  'dns-rebinding-protection/localhost-host-rebinding-rejected': {
    is: 'the status, which is that of a forbidden origin',
    holds: ({ statusCode }) => statusCode === 403,
  },
  'dns-rebinding-protection/localhost-host-valid-accepted': {
    is: 'what was answered, which is the server\'s own description',
    holds: ({ body }) => says(body?.result, '"completions"'),
  },
  'http-header-validation/sep-2243-header-name-case-insensitive': {
    is: 'what was answered, which is the server\'s list of tools',
    holds: ({ responseBody }) => says(responseBody?.result, 'test_simple_text'),
  },
  'input-required-result-ignore-extra-params/sep-2322-ignore-unexpected-params': {
    is: 'what was answered, which has the answer that was asked for, and none other',
    holds: ({ result }) => says(result, 'Alice') && !says(result, 'unknown_extra_key'),
  },
  'input-required-result-unsupported-methods/sep-2322-not-on-unsupported-requests': { by: 'prompts-list/prompts-list' },
  'input-required-result-validate-input/sep-2322-error-on-protocol-error': {
    is: 'what was answered, which is the question again',
    holds: asksAgain,
  },
  'input-required-result-validate-input/sep-2322-validate-input-responses': {
    is: 'what was answered, which is the question again',
    holds: asksAgain,
  },
  'sep-2164-resource-not-found/sep-2164-error-code': { by: 'sep-2164-resource-not-found/sep-2164-data-uri' },
  'sep-2164-resource-not-found/sep-2164-no-empty-contents': { by: 'sep-2164-resource-not-found/sep-2164-data-uri' },
  'server-sse-multiple-streams/server-accepts-multiple-post-streams': { by: 'tools-list/tools-list' },
  'server-stateless/sep-2575-discover-capabilities-match-handlers': { by: 'tools-list/tools-list' },
  'server-stateless/sep-2575-server-declares-prompts-in-discover': { by: 'prompts-list/prompts-list' },
  'server-stateless/sep-2575-http-server-error-jsonrpc-id': {
    by: 'server-stateless/sep-2575-server-rejects-undeclared-capability',
  },
  'server-stateless/sep-2575-http-server-no-independent-requests-on-stream': {
    is: 'a call of the same tool that asks for progress: progress, then `input_required`, and nothing else',
    holds: async (_, url) => {
      const asking = { elicitation: {} };
      const [progress, asked, ...more] = await call(url, 'test_streaming_elicitation', asking, { progressToken: 'p' });
      return says(progress, 'notifications/progress') && says(asked, 'input_required') && more.length === 0;
    },
  },
  'server-stateless/sep-2575-request-meta-client-info-optional': {
    is: 'what was answered, which is the server\'s own description',
    holds: ({ response }) => says(response?.result, '"completions"'),
  },
  'server-stateless/sep-2575-server-honors-notification-filter': {
    by: 'server-stateless/sep-2575-server-sends-tools-list-changed-on-subscription',
  },
  'server-stateless/sep-2575-server-no-log-without-loglevel': {
    is: 'a call of the same tool with a log level, which does log',
    // Of the server's twin: here calls may still wait for their clients, and a log line may be theirs.
    holds: async (_, url) => {
      const messages = await call(`${url}-twin`, 'test_logging_tool', {}, { 'io.modelcontextprotocol/logLevel': 'debug' });
      return says(messages[0], 'notifications/message') && messages.length === 2;
    },
  },
};
