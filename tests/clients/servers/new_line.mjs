// A server of the TypeScript 2.x line: both eras, the same tools as the Python ones beside it.
import { McpServer, acceptedContent, inputRequired } from '@modelcontextprotocol/server';
import { serveStdio } from '@modelcontextprotocol/server/stdio';
import * as z from 'zod';

let cancelled = 0;
const said = text => ({ content: [{ type: 'text', text }] });

serveStdio(() => {
  const server = new McpServer(
    { name: 'typescript-2', version: '1.0.0' },
    { capabilities: { tools: { listChanged: true }, resources: {}, prompts: {}, logging: {} } },
  );
  server.registerTool('echo', { inputSchema: z.object({ message: z.string() }) }, ({ message }) => said(message));
  const steps = z.object({ steps: z.number(), interval_ms: z.number() });
  server.registerTool('slow', { inputSchema: steps }, async ({ steps, interval_ms }, { mcpReq }) => {
    for (let step = 1; step <= steps; step++) {
      await new Promise(resolve => setTimeout(resolve, interval_ms));
      if (mcpReq.signal.aborted) {
        cancelled++;
        return said('cancelled');
      }
      const progressToken = mcpReq._meta?.progressToken;
      if (progressToken !== undefined) {
        const params = { progressToken, progress: step, total: steps };
        await mcpReq.notify({ method: 'notifications/progress', params });
      }
      await mcpReq.log('info', `step ${step}`, 'slow');
    }
    return said(`did ${steps}`);
  });
  server.registerTool('cancelled', {}, () => said(String(cancelled)));
  server.registerTool('announce', {}, () => {
    server.sendToolListChanged();
    return said('announced');
  });
  const name = z.object({ name: z.string() });
  server.registerTool('ask', {}, (...all) => {
    const { mcpReq } = all.at(-1);
    const answer = acceptedContent(mcpReq.inputResponses, 'name', name);
    if (answer) return said(`Hello, ${answer.name}!`);
    const requestedSchema = { type: 'object', properties: { name: { type: 'string' } }, required: ['name'] };
    return inputRequired({ inputRequests: { name: inputRequired.elicit({ message: 'Who?', requestedSchema }) } });
  });
  const big = z.object({ bytes: z.number(), after_ms: z.number(), progress: z.boolean() });
  server.registerTool('big', { inputSchema: big }, async ({ bytes, after_ms, progress }, { mcpReq }) => {
    const progressToken = mcpReq._meta?.progressToken;
    if (progress) await mcpReq.notify({ method: 'notifications/progress', params: { progressToken, progress: 1 } });
    await new Promise(resolve => setTimeout(resolve, after_ms));
    return said('x'.repeat(bytes));
  });
  server.registerResource('greeting', 'test://greeting', {}, uri => ({ contents: [{ uri: uri.href, text: 'hello' }] }));
  server.registerPrompt('hello', { argsSchema: z.object({ name: z.string() }) }, ({ name }) => ({
    messages: [{ role: 'user', content: { type: 'text', text: `Say hello to ${name}` } }],
  }));
  return server;
});
