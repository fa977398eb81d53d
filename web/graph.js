/** Where a node's input comes from, through reroutes, bypassed nodes and the borders of subgraphs. No DOM here. */

const MUTED = 2
const BYPASSED = 4
const MOST_HOPS = 200 // a cycle is a mistake in the graph, not a reason to hang
const FROM_CONDITIONING = 'P2PPairFromConditioning'
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

function typeOf(node) {
  return node.comfyClass ?? node.type
}
