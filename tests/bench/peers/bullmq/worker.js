// Delivers jobs: BullMQ hands them out and retries them, undici pushes, pg records. A job is completed when it
// was pushed and its rows are committed; a failed push is recorded too and retried with backoff.
import { Worker } from 'bullmq'
import { Redis } from 'ioredis'
import pg from 'pg'
import { Agent, request } from 'undici'
import { Rows } from './rows.js'

const QUEUE = 'messages'
const CONCURRENCY = Number(process.env.CONCURRENCY ?? 200)
const LINGER_MS = Number(process.env.LINGER_MS ?? 5)
// As many connections as Agent Broker opens to one endpoint.
const dispatcher = new Agent({ connections: 4, keepAliveTimeout: 60_000, headersTimeout: 10_000, bodyTimeout: 10_000 })

const database = new pg.Client({ connectionString: process.env.DATABASE_URL })
await database.connect()
const { rows: agents } = await database.query('SELECT id, endpoint FROM agents')
const endpoints = new Map(agents.map(agent => [agent.id, agent.endpoint]))
const rows = new Rows(database, LINGER_MS)

async function push (job) {
  const message = job.data
  const at = new Date()
  let code = null
  try {
    const response = await request(endpoints.get(message.to_agent_id), {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'webhook-id': message.id },
      body: JSON.stringify(message),
      dispatcher
    })
    code = response.statusCode
    await response.body.dump()
  } catch {
    // No answer is a failure like another.
  }
  const status = code >= 200 && code < 300 ? 'success' : 'failure'
  const attempt = { number: job.attemptsMade + 1, status, code, durationMs: Date.now() - at.getTime(), at }
  await rows.add(message, attempt)
  if (status === 'failure') throw new Error(`answered ${code}`)
}

const connection = new Redis(process.env.REDIS_URL, { maxRetriesPerRequest: null })
const worker = new Worker(QUEUE, push, {
  connection,
  concurrency: CONCURRENCY,
  removeOnComplete: { count: 0 },
  removeOnFail: { count: 10_000 }
})
worker.on('error', error => console.error(error))

for (const signal of ['SIGTERM', 'SIGINT']) {
  process.once(signal, async () => {
    await worker.close()
    await dispatcher.close()
    await database.end()
    connection.disconnect()
  })
}
