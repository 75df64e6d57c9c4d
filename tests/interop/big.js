'use strict'
// A drive of very many files in seconds: the entries append-tree would write for them one by one, worked out without
// asking the register for the earlier ones, and appended under one signature. A test compares them byte for byte.

const varint = require('varint')
const nodes = require('append-tree/messages')
const { Stat } = require('hyperdrive/lib/messages')
const { call } = require('./common')

module.exports = putMany
module.exports.names = names

// `count` paths, in folders of at most `fanout` names; all in one folder when fanout is at least count
function names (count, fanout) {
  if (fanout < 2) throw new Error('a folder must hold two names or more')
  let levels = 1
  while (Math.pow(fanout, levels) < count) levels++
  const out = []
  for (let n = 0; n < count; n++) {
    const parts = [`f${n}`]
    for (let level = 1, rest = Math.floor(n / fanout); level < levels; level++, rest = Math.floor(rest / fanout)) {
      parts.unshift(`d${rest % fanout}`)
    }
    out.push('/' + parts.join('/'))
  }
  return out
}

// files: [{path, bytes}], none of them there yet, in a drive that has no entry. mtime(i) in milliseconds.
async function putMany (drive, files, mtime) {
  if (drive.version !== 0) throw new Error('many files can only be put into an empty drive')
  const newest = new Map() // folder -> Map(name -> number of the newest entry at or below it), oldest first
  const entries = []
  const chunks = []
  let byteOffset = drive.content.byteLength
  const firstChunk = drive.content.length
  files.forEach((file, i) => {
    const seq = 1 + i
    const parts = file.path.split('/').slice(1)
    const stat = {
      mode: 0o100644,
      uid: 0,
      gid: 0,
      size: file.bytes.length,
      blocks: file.bytes.length ? 1 : 0,
      offset: firstChunk + chunks.length,
      byteOffset,
      mtime: mtime(i),
      ctime: mtime(i)
    }
    if (stat.blocks) chunks.push(file.bytes)
    byteOffset += stat.size
    entries.push(nodes.Node.encode({ name: file.path, value: Stat.encode(stat), paths: children(newest, parts, seq) }))
  })
  for (let at = 0; at < chunks.length; at += 10000) await call(drive.content, 'append', chunks.slice(at, at + 10000))
  await call(drive.metadata, 'append', entries)
  drive.tree.version = drive.metadata.length - 1
}

// append-tree's index: for each folder on the way the newest entries of the other names, then this one (drive.md 4)
function children (newest, parts, seq) {
  const bytes = [1] // every level ends with the entry itself, which is then left out
  for (let level = 0; level <= parts.length; level++) {
    const folder = parts.slice(0, level).join('/')
    let known = newest.get(folder)
    if (!known) newest.set(folder, known = new Map())
    if (level < parts.length) known.delete(parts[level])
    push(bytes, known.size)
    let before = 0
    for (const other of known.values()) {
      push(bytes, other - before)
      before = other
    }
    if (level < parts.length) known.set(parts[level], seq)
  }
  return Buffer.from(bytes)
}

function push (bytes, number) {
  if (number < 128) bytes.push(number)
  else for (const byte of varint.encode(number)) bytes.push(byte)
}
