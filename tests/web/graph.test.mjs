import assert from 'node:assert/strict'
import test from 'node:test'

import { hasBreaks, originOf, outputKey, pairOf, pathTo, runId, textOf } from '../../web/graph.js'

/** A graph as the page keeps it, from nodes {id, type, inputs: {name: [id, slot] or null}, ...}. */
function graph(nodes, { id = 'root', outputs = [] } = {}) {
  const links = new Map()
  const connect = (link) => links.set(links.size + 1, link) && links.size
  const made = { id, nodes: [], inputNode: { id: -10 }, outputNode: { id: -20, slots: [] } }
  made.getLink = (link) => links.get(link)
  made.getNodeById = (wanted) => made.nodes.find((node) => node.id === wanted) ?? null
  for (const { inputs = {}, outputs: types = ['P2P_PAIR'], ...node } of nodes) {
    made.nodes.push({
      ...node,
      graph: made,
      outputs: types.map((type) => ({ type })),
      inputs: Object.entries(inputs).map(([name, from]) => ({
        name,
        type: name === 'pair' ? 'P2P_PAIR' : 'OTHER',
        widget: ['source', 'target'].includes(name) ? { name } : undefined,
        link: from && connect({ origin_id: from[0], origin_slot: from[1] })
      })),
      getInputLink(slot) {
        return made.getLink(this.inputs[slot].link)
      }
    })
  }
  made.outputNode.slots = outputs.map(([from, slot]) => ({ linkIds: [connect({ origin_id: from, origin_slot: slot })] }))
  return made
}

const pair = { id: 1, type: 'P2PPromptPair', outputs: ['CONDITIONING', 'P2P_PAIR'] }
const idOf = (found) => found && runId(found.node, found.path)

test('straight from the pair', () => {
  const root = graph([pair, { id: 2, type: 'P2PReweightToken', inputs: { model: null, pair: [1, 1] } }])
  assert.equal(idOf(pairOf(root.nodes[1], root)), '1')
})

test('through reroutes and bypassed nodes, not through muted ones', () => {
  const nodes = [
    pair,
    { id: 2, type: 'Reroute', isVirtualNode: true, inputs: { '': [1, 1] } },
    { id: 3, type: 'Passes', mode: 4, inputs: { model: null, pair: [2, 0] } },
    { id: 4, type: 'P2PReweightToken', inputs: { pair: [3, 0] } }
  ]
  const root = graph(nodes)
  assert.equal(idOf(pairOf(root.nodes[3], root)), '1')
  root.nodes[2].mode = 2
  assert.equal(pairOf(root.nodes[3], root), null)
})

test('nothing, something else, or a circle', () => {
  const root = graph([
    { id: 2, type: 'P2PReweightToken', inputs: { pair: null } },
    { id: 3, type: 'P2PReweightToken', inputs: { pair: [9, 0] } },
    { id: 4, type: 'Reroute', isVirtualNode: true, inputs: { '': [4, 0] } },
    { id: 5, type: 'P2PReweightToken', inputs: { pair: [4, 0] } },
    { id: 6, type: 'Other' },
    { id: 7, type: 'P2PReweightToken', inputs: { pair: [6, 0] } },
    { id: 8, type: 'NoPair', inputs: {} }
  ])
  for (const node of root.nodes) assert.equal(pairOf(node, root), null)
})

test('out of a subgraph, and into one', () => {
  const inner = graph([{ id: 7, type: 'P2PReweightToken', inputs: { pair: [-10, 0] } }], { id: 'inside' })
  const root = graph([pair, { id: 5, type: 'uuid', subgraph: inner, inputs: { pair: [1, 1] } }])
  assert.deepEqual(pathTo(inner, root).map(({ id }) => id), [5])
  assert.equal(idOf(pairOf(inner.nodes[0], root)), '1')
  assert.equal(outputKey(inner.nodes[0], root), 'inside:7')
  assert.equal(outputKey(root.nodes[0], root), '1')

  const making = graph([pair], { id: 'making', outputs: [[1, 1]] })
  const outer = graph([
    { id: 6, type: 'uuid', subgraph: making },
    { id: 8, type: 'P2PReweightToken', inputs: { pair: [6, 0] } }
  ])
  assert.equal(idOf(pairOf(outer.nodes[1], outer)), '6:1')
})

test('through a subgraph that only passes it on', () => {
  const passing = graph([], { id: 'passing', outputs: [[-10, 0]] })
  const root = graph([
    pair,
    { id: 6, type: 'uuid', subgraph: passing, inputs: { pair: [1, 1] } },
    { id: 8, type: 'P2PReweightToken', inputs: { pair: [6, 0] } }
  ])
  assert.equal(idOf(pairOf(root.nodes[2], root)), '1')
})

test('a graph that was left is in no path', () => {
  const root = graph([pair])
  const gone = graph([{ id: 2, type: 'P2PReweightToken', inputs: { pair: [1, 1] } }])
  assert.equal(pathTo(gone, root), null)
  assert.equal(pairOf(gone.nodes[0], root), null)
})

test('texts: of the widget, of a text node, of a subgraph widget, or unknown', () => {
  const widgets = [{ name: 'source', value: 'a cat' }, { name: 'target', value: 'a dog' }]
  const root = graph([
    { ...pair, widgets, inputs: { clip: null, source: null, target: [2, 0] } },
    { id: 2, type: 'PrimitiveStringMultiline', outputs: ['STRING'], widgets: [{ name: 'value', value: 'a fox' }] },
    { id: 3, type: 'Elsewhere', outputs: ['STRING'] },
    { ...pair, id: 4, widgets, inputs: { source: [3, 0] } }
  ])
  assert.equal(textOf(root.nodes[0], 'source', []), 'a cat')
  assert.equal(textOf(root.nodes[0], 'target', []), 'a fox')
  assert.equal(textOf(root.nodes[3], 'source', []), null)

  const inner = graph([{ ...pair, widgets, inputs: { source: [-10, 0] } }], { id: 'inside' })
  const outer = graph([{ id: 5, type: 'uuid', subgraph: inner, inputs: { source: null } }])
  outer.nodes[0].widgets = [{ name: 'source', value: 'a house' }]
  assert.equal(textOf(inner.nodes[0], 'source', pathTo(inner, outer)), 'a house')
})

test('an unconnected slot has no origin', () => {
  const root = graph([{ id: 2, type: 'Any', inputs: { pair: null } }])
  assert.equal(originOf(root.nodes[0], 0, []), null)
  assert.equal(originOf(root.nodes[0], 5, []), null)
})

test('BREAK separates parts where conditionings made elsewhere are paired', () => {
  assert.equal(hasBreaks({ comfyClass: 'P2PPairFromConditioning' }), true)
  assert.equal(hasBreaks({ type: 'P2PPromptPair' }), false)
})
