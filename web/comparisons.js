/** Asks the server for words and alignment, not more often than one can read, and remembers the answers. No DOM here. */

const PAUSE_MS = 250 // of typing, before it asks
const MOST_KEPT = 50

export class Comparisons {
  #kept = new Map() // question -> {answer} or {error}
  #last = new Map() // node -> what it was told last, to show until the next answer comes
  #waiting = new Map() // node -> {question, timer, asked}
  #ask
  #changed
  #pause

  /**
   * @param ask (question, with its `node`) -> promise of the server's answer; it rejects with what went wrong.
   * @param changed called when an answer has come.
   */
  constructor(ask, changed, pause = PAUSE_MS) {
    this.#ask = ask
    this.#changed = changed
    this.#pause = pause
  }

  /** {answer} or {error}, or with `pending` what was known before. */
  get(asked) {
    const { node } = asked
    const question = JSON.stringify(asked)
    const known = this.#kept.get(question)
    if (known) {
      this.#last.set(node, known)
      return known
    }
    if (this.#waiting.get(node)?.question !== question) {
      clearTimeout(this.#waiting.get(node)?.timer)
      const timer = setTimeout(() => this.#send(question, asked), this.#pause)
      this.#waiting.set(node, { question, timer })
    }
    return { ...this.#last.get(node), pending: true }
  }

  /** Ask everything anew: another tokenizer may answer now. */
  forget() {
    this.#kept.clear()
    this.#changed()
  }

  /** Another graph comes, whose nodes have the same ids as the last one's. */
  leave() {
    for (const { timer } of this.#waiting.values()) clearTimeout(timer)
    this.#waiting.clear()
    this.#last.clear()
  }

  async #send(question, asked) {
    let told
    try {
      told = { answer: await this.#ask(asked) }
    } catch (error) {
      told = { error: error.message }
    }
    if (this.#waiting.get(asked.node)?.question === question) this.#waiting.delete(asked.node)
    this.#kept.set(question, told)
    if (this.#kept.size > MOST_KEPT) this.#kept.delete(this.#kept.keys().next().value)
    this.#changed()
  }
}
