// The two lines of the TypeScript SDK behind one face: what `client.mjs` calls.
import * as oldLine from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport as OldTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { ElicitRequestSchema } from '@modelcontextprotocol/sdk/types.js';
import * as newLine from '@modelcontextprotocol/client';

const LOG_LEVEL = 'io.modelcontextprotocol/logLevel';
const me = { name: 'tests-clients', version: '1.0.0' };

/** A stream that breaks behind its first progress. */
function cut(cuts) {
  const decoder = new TextDecoder();
  let seen = '';
  return new TransformStream({
    transform(chunk, controller) {
      controller.enqueue(chunk);
      seen += decoder.decode(chunk, { stream: true });
      if (/notifications\/progress.*\n\n/s.test(seen)) {
        cuts.made++;
        controller.error(new Error('the test cut the stream'));
      }
    },
  });
}

export async function connect(line, url) {
  const client =
    line === 'typescript-1'
      ? new oldLine.Client(me, { capabilities: { elicitation: {} } })
      : new newLine.Client(me, {
          capabilities: { elicitation: { form: {} } },
          versionNegotiation: { mode: line === 'typescript-2' ? 'auto' : 'legacy' },
        });
  const answer = async () => ({ action: 'accept', content: { name: 'Ada' } });
  client.setRequestHandler(line === 'typescript-1' ? ElicitRequestSchema : 'elicitation/create', answer);
  const heard = [];
  let wake = () => {};
  client.fallbackNotificationHandler = async note => {
    heard.push(note);
    wake();
  };
  const sent = [];
  const cuts = { left: 0, made: 0 };
  const spy = async (input, init) => {
    const body = typeof init?.body === 'string' ? JSON.parse(init.body) : null;
    const resumes = new Headers(init?.headers).get('last-event-id');
    sent.push({ method: init?.method ?? 'GET', body, resumes });
    const response = await fetch(input, init);
    const isStream = response.headers.get('content-type')?.startsWith('text/event-stream');
    if (cuts.left > 0 && isStream && (resumes || body?.method === 'tools/call')) {
      cuts.left--;
      return new Response(response.body.pipeThrough(cut(cuts)), response);
    }
    return response;
  };
  const transport = new (line === 'typescript-1' ? OldTransport : newLine.StreamableHTTPClientTransport)(new URL(url), {
    fetch: spy,
  });
  await client.connect(transport);
  const version = client.getNegotiatedProtocolVersion?.() ?? transport.protocolVersion;
  const modern = version >= '2026-07-28';
  let level;
  const call = (name, args, options) => {
    const params = { name, arguments: args };
    if (level) params._meta = { [LOG_LEVEL]: level };
    return line === 'typescript-1' ? client.callTool(params, undefined, options) : client.callTool(params, options);
  };
  return {
    version,
    modern,
    heard,
    sent,
    cuts,
    serverName: client.getServerVersion()?.name,
    session: () => transport.sessionId,
    tools: async () => (await client.listTools()).tools,
    call,
    resources: async () => (await client.listResources()).resources,
    read: async uri => (await client.readResource({ uri })).contents,
    prompts: async () => (await client.listPrompts()).prompts,
    prompt: async (name, args) => (await client.getPrompt({ name, arguments: args })).messages,
    complete: async (name, argument, value) =>
      (await client.complete({ ref: { type: 'ref/prompt', name }, argument: { name: argument, value } })).completion.values,
    ping: () => client.ping(),
    async logLevel(wanted) {
      if (modern) level = wanted;
      else await client.setLoggingLevel(wanted);
    },
    /** Watches lists, and these resources; returns what ends that. */
    async watch(uris = []) {
      if (modern) {
        const all = { toolsListChanged: true, promptsListChanged: true, resourcesListChanged: true };
        const open = await client.listen({ ...all, resourceSubscriptions: uris });
        return () => open.close();
      }
      for (const uri of uris) await client.subscribeResource({ uri });
      return () => Promise.all(uris.map(uri => client.unsubscribeResource({ uri })));
    },
    /** The first notification that fits, from the `from`th on. */
    async hears(what, fits, from = 0) {
      for (;;) {
        const found = heard.slice(from).find(fits);
        if (found) return found;
        await new Promise((resolve, reject) => {
          const timer = setTimeout(() => reject(new Error(`heard no ${what}, but ${JSON.stringify(heard.slice(from))}`)), 10_000);
          wake = () => {
            clearTimeout(timer);
            resolve();
          };
        });
      }
    },
    terminate: () => transport.terminateSession(),
    close: () => client.close(),
  };
}
