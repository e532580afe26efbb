// Publishes the benchmark's messages on the driver's orders (see parts/feed.py for the protocol), in bulk.
import { randomBytes } from 'node:crypto'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { Queue } from 'bullmq'
import { Redis } from 'ioredis'

const BATCH = 64
const CALLS = 4
const LEAD_NS = 50_000_000n
const JOB = { attempts: 20, backoff: { type: 'exponential', delay: 400 } }

const connection = new Redis(process.env.REDIS_URL, { maxRetriesPerRequest: null })
const queue = new Queue('messages', { connection })
const nowNs = () => process.hrtime.bigint()
let agents = []

function publish (messages) {
  return queue.addBulk(messages.map(data => ({ name: 'push', data, opts: JOB })))
}

async function flatOut (count) {
  const firstNs = nowNs()
  let next = 0
  const caller = async () => {
    while (next < count) {
      const start = next
      next = Math.min(start + BATCH, count)
      const sentNs = nowNs()
      await publish(Array.from({ length: next - start }, (_, n) => compose(start + n, sentNs)))
    }
  }
  await Promise.all(Array.from({ length: CALLS }, caller))
  return { first_ns: Number(firstNs), last_ns: Number(nowNs()) }
}

async function paced (count, rate) {
  const firstNs = nowNs() + LEAD_NS
  const dueNs = n => firstNs + BigInt(n) * 1_000_000_000n / BigInt(rate)
  const calls = []
  let lateNs = 0n
  for (let done = 0; done < count;) {
    const now = nowNs()
    let due = done
    while (due < count && dueNs(due) <= now) due++
    if (due > done) {
      if (now - dueNs(done) > lateNs) lateNs = now - dueNs(done)
      calls.push(publish(Array.from({ length: due - done }, (_, n) => compose(done + n, dueNs(done + n)))))
      done = due
    }
    await sleep(1)
  }
  await Promise.all(calls)
  return { first_ns: Number(firstNs), last_ns: Number(nowNs()), late_ms_max: Number(lateNs) / 1e6 }
}

// The fields of Agent Broker's envelope. CLOCK_MONOTONIC in nanoseconds fits a double for a hundred days.
function compose (number, sentNs) {
  return {
    id: uuid7(),
    from_agent_id: null,
    to_agent_id: agents[number % agents.length],
    conversation_id: null,
    message_type: 'task',
    priority: 5,
    content: { sent_ns: Number(sentNs), url: 'https://example.com/honda' },
    metadata: {},
    status: 'pending',
    expires_at: null,
    created_at: new Date().toISOString(),
    reply_to: null,
    root_id: null,
    hop: 0
  }
}

function uuid7 () {
  const digits = Date.now().toString(16).padStart(12, '0') + randomBytes(10).toString('hex')
  const variant = (8 + parseInt(digits[16], 16) % 4).toString(16)
  return `${digits.slice(0, 8)}-${digits.slice(8, 12)}-7${digits.slice(13, 16)}-${variant}${digits.slice(17, 20)}-${digits.slice(20)}`
}

for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line)
  let answer = {}
  if (order.agents) agents = order.agents
  else answer = order.rate ? await paced(order.count, order.rate) : await flatOut(order.count)
  console.log(JSON.stringify(answer))
}
await queue.close()
connection.disconnect()
