/**
 * The one file that registers anything: it puts a view on each node of the pack that has one.
 *
 * ComfyUI's page loads and runs every .js of this folder; the others only define. A view is {element, state(), show()}:
 * `state()` is all that it shows, as plain data, and it is drawn anew when that changes. The page does not tell when
 * something further up in the graph changes (a link, an undo, a reroute), so views look twice a second; what is changed
 * on a node itself shows at once. Values stay in the nodes' ordinary widgets: a view saves nothing.
 */

import { api } from '../../scripts/api.js'
import { app } from '../../scripts/app.js'
import { compareView } from './compare_view.js'
import { Draw, firstChoices, hasChoices } from './choices.js'
import { Comparisons } from './comparisons.js'
import { editView } from './edit_view.js'
import { make } from './elements.js'
import { hasBreaks, outputKey, PAIR_NODES, pairOf, pathTo, runId, surroundings, textOf } from './graph.js'
import { hintsView } from './hints_view.js'
import { instructionView } from './instruction_view.js'
import { mapsView } from './maps_view.js'
import { keepNotices } from './notices.js'
import { hasNames, nameOf } from './option_names.js'
import { pairView } from './pair_view.js'
import { readablePlace, translateTemplate } from './templates.js'
import { setLanguage, t } from './texts.js'
import { numbersView, windowsView } from './windows_view.js'
import { wordsView } from './words_view.js'

const LOOK_EVERY_MS = 500
const WIDGET = 'p2p_view'
const MARGIN = 8 // pixels around a view
const LANGUAGES = ['ko', 'ja', 'zh'] // of texts/, as the page names them; on a page in another one views speak English
const LEAST_WIDTH = 270 // of a new node, so that titles and views are whole
const WIDTH = { P2PCompare: 340, P2PEdit: 400, P2PPromptPair: 400, P2PPairFromConditioning: 400, P2PGrid: 400, P2PAttentionMaps: 340 }

/** Node id -> widgets that are hidden while nothing is in them, or nothing needs them; its views show them. */
const FOLDED = {
  P2PPromptPair: ['alignment'],
  P2PPairFromConditioning: ['alignment'],
  P2PEdit: ['alignment', 'words', 'steps', 'scheduler', 'denoise'],
  P2PGrid: ['alignment'],
  P2PAttentionReplace: ['injection'],
  P2PAttentionRefine: ['injection']
}
const DRAWN_HERE = ['P2PPromptPair', 'P2PEdit', 'P2PGrid'] // whose text boxes may hold {cat|dog}
const WORDS = { widget: 'words', label: () => t('pick words'), mark: '✓' }
const FADED = { ...WORDS, mark: '', factor: (host) => Number(host.value('scale')) }
const FADERS = {
  widget: 'words',
  label: () => t('pick words to fade'),
  mark: '',
  more: () => t('fade a word'),
  fold: true,
  factor: () => null
}
const EXCLUDED = {
  widget: 'exclude_words',
  label: () => t('pick words to exclude'),
  mark: '✕',
  more: () => t('words to exclude')
}
const CROSS_AND_SELF = [
  [() => t('cross'), 'cross_start', 'cross_end'],
  [() => t('self'), 'self_start', 'self_end']
]
const WORKS = [[() => t('works'), 'start', 'end']]

/** Node id -> its views, from the top, and how tall they may get before they scroll. */
const NODES = {
  P2PPromptPair: { views: (host) => [pairView(host), hintsView(host)], most: 170 },
  P2PEdit: { views: (host) => [instructionView(host), pairView(host), wordsView(host, [FADERS], 'alone'), editView(host), hintsView(host)], most: 260 },
  P2PGrid: { views: (host) => [pairView(host), hintsView(host)], most: 170 },
  P2PPairFromConditioning: { views: (host) => [pairView(host), hintsView(host)], most: 170 },
  P2PAttentionReplace: { views: (host) => [numbersView(host, CROSS_AND_SELF), windowsView(host, ['shared', 'swapped']), hintsView(host)], most: 220 },
  P2PAttentionRefine: { views: (host) => [numbersView(host, CROSS_AND_SELF), windowsView(host, ['shared']), hintsView(host)], most: 220 },
  P2PReweightToken: { views: (host) => [wordsView(host, [FADED], false), numbersView(host, WORKS), hintsView(host)], most: 160 },
  P2PLocalBlendMask: { views: (host) => [wordsView(host, [WORDS, EXCLUDED], true), hintsView(host)], most: 160 },
  P2PRecordAttention: { views: (host) => [wordsView(host, [WORDS], 'every prompt'), hintsView(host)], most: 160 },
  P2PAttentionMaps: { views: (host) => [mapsView(host)], most: 300 },
  P2PCompare: { views: (host) => [compareView(host)], most: 1000 }
}

const live = new Map() // node -> look(), for the nodes that are in a graph
const templateTexts = {} // of the languages in which a graph was opened
let language = null // of the page
let spoken = null // by the views, once its texts are there
let opening = null // {graph, before}: what the page is about to open, and where it looked until then
const comparisons = new Comparisons(ask, lookAtAll)

app.registerExtension({
  name: 'prompt_to_prompt.page',
  setup() {
    document.head.append(make('link', { rel: 'stylesheet', href: new URL('./p2p.css', import.meta.url).href }))
    followLanguage()
    setInterval(lookAtAll, LOOK_EVERY_MS)
    keepNotices(api)
    api.addEventListener('execution_success', () => comparisons.forget()) // the connected CLIP may be known now
    document.addEventListener('click', followLinkOfHelp, true)
  },
  async beforeConfigureGraph(graph) {
    comparisons.leave()
    opening = { graph, before: place() }
    const chosen = app.extensionManager?.setting.get('Comfy.Locale')
    if (!LANGUAGES.includes(chosen)) return
    templateTexts[chosen] ??= await textsOf('template_texts', chosen) // once: each undo opens the graph again
    translateTemplate(graph, templateTexts[chosen])
  },
  afterConfigureGraph() {
    const { width, height } = app.canvas.canvas.getBoundingClientRect()
    const better = opening && readablePlace(opening.graph, opening.before, place(), [width, height])
    opening = null
    if (!better) return
    Object.assign(app.canvas.ds, { scale: better.scale, offset: [...better.offset] })
    app.canvas.setDirty(true, true)
  },
  nodeCreated(node) {
    if (DRAWN_HERE.includes(node.comfyClass)) chooseAlike(node)
    for (const name of FOLDED[node.comfyClass] ?? []) hostOf(node).fold(name, true) // before it takes room; nodes never shrink
    if (NODES[node.comfyClass]) addViews(node, NODES[node.comfyClass])
    if (!node.comfyClass.startsWith('P2P')) return
    for (const { options } of node.widgets ?? []) if (hasNames(options?.values)) options.getOptionLabel = nameOf
    makeFresh(node)
  }
})

/** Where the page looks at its graph. */
function place() {
  const { scale, offset } = app.canvas.ds
  return { scale, offset: [...offset] }
}

/** A node as it is when it is new; what a workflow has saved of it comes after this. */
function makeFresh(node) {
  node.setSize?.([Math.max(node.size[0], WIDTH[node.comfyClass] ?? LEAST_WIDTH), node.size[1]])
  const next = node.comfyClass === 'P2PDemoPicture' && node.widgets?.find(({ name }) => name === 'control_after_generate')
  if (next) next.value = 'fixed' // another seed is another caption
}

/** A link of a help page to another page of ours: the page's panel knows only nodes, the pack's server has them all. */
function followLinkOfHelp(event) {
  const link = event.target.closest?.('.node-help-content a[href]')
  const name = /^(?:\.\.\/)*([\w-]+)\.md(#.*)?$/.exec(link?.getAttribute('href') ?? '')
  if (!name || !/^P2P\b/.test(link.closest('.node-help-content').querySelector('h1')?.textContent.trim() ?? '')) return
  event.preventDefault()
  const language = app.extensionManager.setting.get('Comfy.Locale')
  window.open(api.apiURL(`/p2p/docs/${name[1]}?language=${language}${name[2] ?? ''}`), '_blank', 'noopener')
}

/**
 * `{cat|dog}` in the source and in its edits is one choice. The page would draw each text box by itself; when the texts
 * are queued, each box is asked once, and a box that is asked again begins the next draw.
 */
function chooseAlike(node) {
  let draw = new Draw()
  const asked = new Set()
  for (const widget of node.widgets.filter(({ name }) => name === 'source' || name === 'target')) {
    widget.serializeValue = (saved, place) => {
      if (typeof widget.value !== 'string') return widget.value
      if (asked.has(widget)) {
        asked.clear()
        draw = new Draw()
      }
      asked.add(widget)
      const text = draw.resolve(widget.value)
      if (saved?.widgets_values) saved.widgets_values[place] = text // what was drawn goes into the picture's file
      return text
    }
  }
}

/** The size of a widget that takes no room; the canvas puts 4 pixels under each. */
function noRoom() {
  return [0, -4]
}

/** Views speak the page's language; it may be changed at any time, and the page draws its nodes anew then, too. */
async function followLanguage() {
  const chosen = app.extensionManager?.setting.get('Comfy.Locale')
  if (chosen === language) return
  language = chosen
  const texts = LANGUAGES.includes(chosen) ? await textsOf('texts', chosen) : {}
  if (chosen !== language) return // it was changed again meanwhile
  setLanguage(texts)
  spoken = chosen
  lookAtAll()
}

async function textsOf(folder, language) {
  try {
    const response = await fetch(new URL(`./${folder}/${language}.json`, import.meta.url), { cache: 'no-cache' })
    return await response.json()
  } catch {
    return {} // English is understood, too
  }
}

function lookAtAll() {
  followLanguage()
  for (const [node, look] of live) {
    if (node.graph && pathTo(node.graph, app.rootGraph ?? app.graph)) look()
    else live.delete(node) // its subgraph or workflow is gone; if it comes back it is added anew
  }
}

function addViews(node, { views, most }) {
  const parts = views(hostOf(node))
  const body = make('div', { class: 'p2p-body' }, parts.map(({ element }) => element))
  const root = make('div', { class: 'p2p-view' }, body)
  keepFromCanvas(root)

  // Before the page has given it its width, everything would be in one narrow column; nodes grow, but never shrink.
  const height = () => (root.clientWidth > 50 ? body.offsetHeight : 0)
  const widget = node.addDOMWidget(WIDGET, 'p2p', root, {
    serialize: false, // not into the prompt
    margin: MARGIN,
    getMinHeight: () => Math.min(most, height()) + 2 * MARGIN,
    getMaxHeight: () => height() + 2 * MARGIN
  })
  widget.serialize = false // nor into the saved values
  root.style.setProperty('--p2p-most', `${most}px`)

  const shown = parts.map(() => null)
  let room = 0
  const look = () => {
    takePlace(node, root)
    const needed = height()
    if (room !== needed) {
      room = needed
      node.setDirtyCanvas?.(true, true) // where nobody moves the mouse, as in a subgraph that was just opened
    }
    parts.forEach((part, i) => {
      const state = part.state()
      const key = JSON.stringify([spoken, state])
      if (key === shown[i]) return
      shown[i] = key
      part.show(state)
      node.setDirtyCanvas?.(true, true) // it may need another height
    })
  }
  for (const each of node.widgets) chain(each, 'callback', () => queueMicrotask(look))
  chain(node, 'onAdded', () => live.set(node, look) && queueMicrotask(lookAtAll))
  chain(node, 'onRemoved', () => live.delete(node))
  chain(node, 'onResize', () => node.setDirtyCanvas?.(true, true)) // it grows while it is drawn, for the next time
  chain(node, 'onConnectionsChange', () => queueMicrotask(lookAtAll))
}

/**
 * Nodes 2.0 keeps showing the element of the node that had this id before: after an undo, which makes all nodes anew, and
 * after going into or out of a subgraph.
 */
function takePlace(node, root) {
  if (root.isConnected || node.graph !== app.canvas.graph) return
  document.querySelector(`[data-node-id="${CSS.escape(String(node.id))}"] .p2p-view`)?.replaceWith(root)
}

/** Call `after` when a method of the page's object is called, whatever was there before. */
function chain(object, name, after) {
  const before = object[name]
  object[name] = function (...values) {
    const result = before?.apply(this, values)
    after()
    return result
  }
}

/** What a view may know and do: the node's values, and what the server says of its prompts. */
function hostOf(node) {
  const widget = (name) => node.widgets.find((each) => each.name === name)
  const root = () => app.rootGraph ?? app.graph
  const host = {
    kind: node.comfyClass,
    around: () => surroundings(node, root()),
    value: (name) => widget(name)?.value,
    set(name, value) {
      host.transact(() => {
        const found = widget(name)
        found.value = value
        found.callback?.(value) // the page's own ear on it
        node.setDirtyCanvas?.(true, true)
      })
    },
    begin: () => app.canvas.emitBeforeChange(), // what happens until `end` is one step for Undo
    end: () => app.canvas.emitAfterChange(),
    transact(change) {
      host.begin()
      try {
        change()
      } finally {
        host.end()
      }
    },
    fold(name, folded) {
      const found = widget(name)
      if (!found || Boolean(found.hidden) === folded) return
      found.hidden = folded
      found.options.hidden = folded // where Nodes 2.0 looks
      if (folded) found.computeSize = noRoom // the classic canvas keeps room for what is hidden
      else if (found.computeSize === noRoom) delete found.computeSize
      if (!folded) node.setSize?.([node.size[0], Math.max(node.size[1], node.computeSize()[1])])
      node.setDirtyCanvas?.(true, true)
    },
    connected: (name) => Boolean(node.inputs?.some((input) => input.name === name && input.link != null)),
    look: () => live.get(node)?.(), // what only the view knows has changed
    resized: () => node.setDirtyCanvas?.(true, true),
    comparison() {
      const own = PAIR_NODES.includes(node.comfyClass)
      const path = node.graph && pathTo(node.graph, root())
      if (!path) return { hint: '' }
      const pair = own ? { node, path } : pairOf(node, root())
      if (!pair) return { hint: t('Connect a P2P Prompt Pair to pick its words here.') }
      const [source, target] = ['source', 'target'].map((name) => textOf(pair.node, name, pair.path))
      if (source === null || target === null) {
        return { hint: t('The prompts come from another node, so their words cannot be listed here.') }
      }
      if (!source.trim()) return { hint: t('Write the source prompt, and its words appear here.') }
      const breaks = hasBreaks(pair.node)
      const resolve = breaks ? (text) => text : firstChoices // those of conditionings were drawn where they were encoded
      const told = comparisons.get({
        node: runId(pair.node, pair.path),
        source: resolve(source),
        target: resolve(target),
        breaks,
        alignment: textOf(pair.node, 'alignment', pair.path) ?? ''
      })
      return own ? { ...told, hints: hintsFor([source, target], breaks) } : told
    },
    output: () => app.nodeOutputs?.[outputKey(node, root())],
    picture: ({ filename, subfolder, type }) => api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`)
  }
  return host
}

/** What a person may not expect of the texts, though nothing is wrong with them. */
function hintsFor(texts, breaks) {
  if (breaks) return []
  return [
    texts.some((text) => /\bBREAK\b/.test(text)) &&
      t(
        'BREAK is read as the word “break”, as in CLIP Text Encode. For parts encoded each by itself: Conditioning ' +
          '(Concat), P2P Pair From Conditioning.'
      ),
    texts.some(hasChoices) && t('Shown with the first word of each {a|b}. In a run source and edits choose alike.')
  ].filter(Boolean)
}

/** What is done on a view is not done to the node under it; the wheel and the middle button still move the canvas. */
function keepFromCanvas(root) {
  const interactive = 'button, input, select, [role=slider], .p2p-track, .p2p-keep'
  for (const name of ['pointerdown', 'pointermove', 'pointerup']) {
    root.addEventListener(name, (event) => {
      const middle = event.button === 1 || (event.buttons & 4) === 4
      const forward = { pointerdown: 'processMouseDown', pointermove: 'processMouseMove', pointerup: 'processMouseUp' }[name]
      if (middle) app.canvas[forward]?.(event)
      else if (event.target.closest(interactive)) event.stopPropagation()
    })
  }
  root.addEventListener('keydown', (event) => {
    if ([' ', 'Enter'].includes(event.key) && event.target.closest('button')) event.stopPropagation()
  })
  root.addEventListener('wheel', (event) => {
    const scrolls = root.scrollHeight > root.clientHeight + 1 && !event.ctrlKey
    if (scrolls) event.stopPropagation()
    else if (!root.closest('[data-node-id]')) app.canvas.processMouseWheel(event)
  })
}

async function ask(question) {
  const response = await api.fetchApi('/p2p/alignment', {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(question)
  })
  const answer = await response.json().catch(() => null)
  const nothing = t('The server gave no words (status {status}).', response)
  if (!response.ok || !answer) throw new Error(answer?.error ?? nothing)
  return answer
}
