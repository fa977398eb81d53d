/** Where a node's input comes from, through reroutes, bypassed nodes and the borders of subgraphs. No DOM here. */

const MUTED = 2
const BYPASSED = 4
const MOST_HOPS = 200 // a cycle is a mistake in the graph, not a reason to hang
const FROM_CONDITIONING = 'P2PPairFromConditioning'
const OWN = 'P2P' // begins the ids of our nodes
export const PAIR_NODES = ['P2PPromptPair', 'P2PEdit', 'P2PGrid', FROM_CONDITIONING]
const TEXT_NODES = ['PrimitiveNode', 'PrimitiveString', 'PrimitiveStringMultiline']

/** The subgraph nodes that lead from the root graph to a graph, outermost first; null if none does. */
export function pathTo(graph, root) {
  if (graph === root) return []
  for (const node of root.nodes) {
    if (!node.subgraph) continue
    const rest = pathTo(graph, node.subgraph)
    if (rest) return [node, ...rest]
  }
  return null
}

/** A node's id in a run: its subgraphs' ids before its own. */
export function runId(node, path) {
  return [...path, node].map((each) => each.id).join(':')
}

/** Under which key the page keeps what a node has put out. */
export function outputKey(node, root) {
  return node.graph && node.graph !== root ? `${node.graph.id}:${node.id}` : String(node.id)
}

/**
 * What feeds an input.
 * @param path the subgraph nodes around `node`, from pathTo.
 * @returns {{node, path} | {value} | null} a node that really runs, or the value of a subgraph's own widget.
 */
export function originOf(node, slot, path) {
  let link = linkInto(node, slot)
  for (let hops = 0; link && hops < MOST_HOPS; hops++) {
    const { graph } = node
    if (graph.inputNode && link.origin_id === graph.inputNode.id) {
      node = path.at(-1)
      if (!node) return null
      path = path.slice(0, -1)
      const input = node.inputs[link.origin_slot]
      if (!input) return null
      if (input.link == null) {
        const widget = node.widgets?.find((each) => each.name === input.widget?.name)
        return widget ? { value: widget.value } : null
      }
      link = linkInto(node, link.origin_slot)
      continue
    }
    node = graph.getNodeById(link.origin_id)
    if (!node || node.mode === MUTED) return null
    if (node.mode === BYPASSED) {
      const type = node.outputs[link.origin_slot]?.type
      link = linkInto(node, node.inputs.findIndex((input) => input.type === type))
    } else if (node.subgraph) {
      const inner = node.subgraph.outputNode.slots[link.origin_slot]?.linkIds[0]
      const innerLink = inner == null ? null : node.subgraph.getLink(inner)
      path = [...path, node]
      node = { graph: node.subgraph } // go on inside, as if from the subgraph's output
      link = innerLink
    } else if (node.isVirtualNode && !TEXT_NODES.includes(node.type)) {
      link = node.getInputLink?.(link.origin_slot) ?? null
    } else {
      return { node, path }
    }
  }
  return null
}

function linkInto(node, slot) {
  const id = node.inputs?.[slot]?.link
  return id == null ? null : node.graph.getLink(id) ?? null
}

/** The prompt pair that a node's `pair` comes from: {node, path}, or null. */
export function pairOf(node, root) {
  const path = node.graph && pathTo(node.graph, root)
  const slot = node.inputs?.findIndex((input) => input.name === 'pair') ?? -1
  if (!path || slot < 0) return null
  const origin = originOf(node, slot, path)
  return origin?.node && PAIR_NODES.includes(typeOf(origin.node)) ? origin : null
}

/** Whether BREAK separates parts of a pair's texts. */
export function hasBreaks(node) {
  return typeOf(node) === FROM_CONDITIONING
}

/** The value of a text widget, wherever it is written; null where only the run will tell. */
export function textOf(node, name, path) {
  const slot = node.inputs?.findIndex((input) => input.name === name && input.link != null) ?? -1
  if (slot < 0) return String(node.widgets?.find((widget) => widget.name === name)?.value ?? '')
  const origin = originOf(node, slot, path)
  if (origin && 'value' in origin) return String(origin.value)
  return origin && TEXT_NODES.includes(typeOf(origin.node)) ? String(origin.node.widgets?.[0]?.value ?? '') : null
}

/** What hints.js has to know of the graph around a node, as plain data. `runs`: neither muted nor bypassed. */
export function surroundings(node, root) {
  const path = node.graph && pathTo(node.graph, root)
  if (!path || !isRun(node, path)) return { runs: false }
  const own = PAIR_NODES.includes(typeOf(node))
  const pair = own ? { node, path } : pairOf(node, root)
  return {
    runs: true,
    mask: isFed(node, 'mask', path),
    pair: pair && {
      kind: typeOf(pair.node),
      source: textOf(pair.node, 'source', pair.path),
      target: textOf(pair.node, 'target', pair.path),
      words: textOf(pair.node, 'words', pair.path), // of a node that also fades them
      faded: isFaded(pair, root)
    },
    unused: own && isUnused(pair, root),
    inverted: own ? invertedBy(pair, root) : []
  }
}

/** Whether anything comes into an input; null where that is not known. */
function isFed(node, name, path) {
  const slot = node.inputs?.findIndex((input) => input.name === name && input.link != null) ?? -1
  return slot < 0 ? false : originOf(node, slot, path) ? true : null
}

/** Whether a P2P Reweight Token works on a pair, or may do so. */
function isFaded(pair, root) {
  return [...running(root)].some((each) => {
    if (typeOf(each.node) !== 'P2PReweightToken') return false
    const [origin] = feeding(each, { name: 'pair' })
    return origin === null || (origin?.node && idOf(origin) === idOf(pair))
  })
}

/** Whether a pair's conditioning goes to a sampler whose model no P2P node has touched; host/graph.py finds it, too. */
function isUnused(pair, root) {
  if (!['P2PPromptPair', FROM_CONDITIONING].includes(typeOf(pair.node))) return false
  if (textOf(pair.node, 'target', pair.path) === '') return false
  return [...running(root)].some((each) => {
    const models = feeding(each, { type: 'MODEL' })
    return models.length > 0 && !isOwn(each.node) && isConditionedBy(each, pair) && !models.some(isTouched)
  })
}

/** Whether a pair's conditioning comes to a node, maybe through others that change conditionings. */
function isConditionedBy(from, pair, seen = new Set()) {
  return feeding(from, { type: 'CONDITIONING' }).some((origin) => {
    if (!origin?.node || seen.has(idOf(origin))) return false
    if (idOf(origin) === idOf(pair)) return true
    seen.add(idOf(origin))
    return !isOwn(origin.node) && !feeding(origin, { type: 'MODEL' }).length && isConditionedBy(origin, pair, seen)
  })
}

/** Whether a P2P node that edits is behind a model; also where that is not known. */
function isTouched(model) {
  return [...upstream(model)].some((each) => {
    if (!each) return true
    const pairs = each.node.inputs?.some(({ name }) => name === 'pair') || typeOf(each.node).includes('DDIMInvert')
    return isOwn(each.node) && pairs
  })
}

/** The texts by which P2P DDIM Invert goes back, on models whose sampler takes this pair's conditioning as it is. */
function invertedBy(pair, root) {
  if (hasBreaks(pair.node)) return [] // of conditionings: their texts do not say all
  const texts = new Map()
  for (const each of running(root)) {
    const positive = ['positive', 'conditioning'].flatMap((name) => feeding(each, { name, type: 'CONDITIONING' }))
    if (isOwn(each.node) || !positive.some((origin) => origin?.node && idOf(origin) === idOf(pair))) continue
    for (const before of feeding(each, { type: 'MODEL' }).flatMap((model) => [...upstream(model, { type: 'MODEL' })])) {
      if (before && typeOf(before.node) === 'P2PDDIMInvert') texts.set(idOf(before), encodedText(before))
    }
  }
  return [...texts.values()].filter((text) => text !== null)
}

/** The text that a node's `conditioning` was encoded from; null where that is not known. */
function encodedText(node) {
  const [origin] = feeding(node, { name: 'conditioning' })
  if (!origin?.node || hasBreaks(origin.node)) return null
  if (typeOf(origin.node) === 'CLIPTextEncode') return textOf(origin.node, 'text', origin.path)
  return PAIR_NODES.includes(typeOf(origin.node)) ? textOf(origin.node, 'source', origin.path) : null
}

function isRun(node, path) {
  return [...path, node].every(({ mode }) => mode !== MUTED && mode !== BYPASSED)
}

/** All nodes that are run, each with the subgraph nodes around it. */
function* running(graph, path = []) {
  for (const node of graph.nodes) {
    if (!isRun(node, [])) continue
    if (node.subgraph) yield* running(node.subgraph, [...path, node])
    else yield { node, path }
  }
}

/** A node and all that leads to it, once each; null for what cannot be found. */
function* upstream(from, which = {}) {
  const open = [from]
  const seen = new Set()
  while (open.length) {
    const each = open.pop()
    if (each && (!each.node || seen.has(idOf(each)))) continue
    yield each
    if (each) {
      seen.add(idOf(each))
      open.push(...feeding(each, which))
    }
  }
}

/** What feeds a node's linked inputs, all or those of a name and a type; null for what cannot be found. */
function feeding({ node, path }, { name, type } = {}) {
  return (node.inputs ?? []).flatMap((input, slot) => {
    const wanted = (name ?? input.name) === input.name && (type ?? input.type) === input.type
    return wanted && input.link != null ? [originOf(node, slot, path)] : []
  })
}

function idOf({ node, path }) {
  return runId(node, path)
}

function isOwn(node) {
  return typeOf(node).startsWith(OWN)
}

function typeOf(node) {
  return node.comfyClass ?? node.type
}
