// Rows of messages and attempts, written in batches: `add` resolves when they are committed. While one batch
// commits, the next gathers. What waits here is not completed yet, so a crash loses nothing.
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'

const RECORD = readFileSync(new URL('./record.sql', import.meta.url), 'utf8')
const ROWS_MAX = 1000

export class Rows {
  #client
  #lingerMs
  #waiting = []
  #writing = false

  constructor (client, lingerMs) {
    this.#client = client
    this.#lingerMs = lingerMs
  }

  add (message, attempt) {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ message, attempt, resolve, reject })
      if (!this.#writing) this.#write()
    })
  }

  async #write () {
    this.#writing = true
    while (this.#waiting.length) {
      if (this.#lingerMs) await sleep(this.#lingerMs)
      const batch = this.#waiting.splice(0, ROWS_MAX)
      try {
        await this.#client.query({ name: 'record', text: RECORD, values: columns(batch) })
        for (const one of batch) one.resolve()
      } catch (error) {
        for (const one of batch) one.reject(error)
      }
    }
    this.#writing = false
  }
}

function columns (batch) {
  const messages = [...new Map(batch.map(one => [one.message.id, one])).values()]
  const of = (rows, value) => rows.map(value)
  return [
    of(messages, one => one.message.id),
    of(messages, one => one.message.to_agent_id),
    of(messages, one => one.message.message_type),
    of(messages, one => one.message.priority),
    of(messages, one => JSON.stringify(one.message.content)),
    of(messages, one => JSON.stringify(one.message.metadata)),
    of(messages, one => one.attempt.status === 'success' ? 'delivered' : 'pending'),
    of(messages, one => one.message.hop),
    of(messages, one => one.message.created_at),
    of(messages, one => one.attempt.status === 'success' ? one.attempt.at : null),
    of(batch, one => one.message.id),
    of(batch, one => one.attempt.number),
    of(batch, one => one.attempt.status),
    of(batch, one => one.attempt.code),
    of(batch, one => one.attempt.durationMs),
    of(batch, one => one.attempt.at)
  ]
}
