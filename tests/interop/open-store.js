#!/usr/bin/env node
'use strict'
// Opens a store as the reference would and checks everything held there: each chunk goes, with the proof made from the
// store's own tree and signatures, into an empty register that verifies it as it would a stranger's. Changes nothing on
// disk. One JSON object on stdout; exit code 1 if it does not open, 6 if a chunk is wrong.

const fs = require('fs')
const hypercore = require('hypercore')
const ram = require('random-access-memory')
const c = require('./common')

const usage = 'open-store.js DIR [--files]   --files: also the paths of the newest version and what of them is here'
const args = c.flags({ files: 'switch' }, usage)

async function inspect (register) {
  const judge = hypercore(ram, register.key, { sparse: true })
  await c.call(judge, 'ready')
  const out = { key: register.key.toString('hex'), length: register.length, byteLength: register.byteLength, chunks: [], bad: [] }
  for (let i = 0; i < register.length; i++) {
    if (!register.has(i)) continue
    try {
      const bytes = await c.call(register, 'get', i, { wait: false })
      const proof = await c.call(register, 'proof', i)
      await c.call(judge, 'put', i, bytes, proof)
      out.chunks.push({ index: i, size: bytes.length, sha256: c.sha256(bytes) })
    } catch (err) {
      out.bad.push({ index: i, message: err.message })
    }
  }
  return out
}

async function files (drive) {
  const out = []
  for (const entry of await c.listing(drive)) {
    if (entry.directory) continue
    const { offset, blocks, size } = entry.stat
    out.push({ path: entry.path, size, here: drive.content.downloaded(offset, offset + blocks), blocks })
  }
  return out
}

async function main () {
  if (args._.length !== 1) throw new Error(usage)
  const drive = await c.openFrozen(args._[0], { sparse: true, sparseMetadata: true })
  const out = { layout: drive.layout, key: drive.key.toString('hex'), version: drive.version, metadata: await inspect(drive.metadata) }
  if (drive.metadata.has(0)) {
    await c.contentReady(drive)
    out.content = await inspect(drive.content)
    if (args.files) out.files = await files(drive)
  }
  fs.writeSync(1, JSON.stringify(out) + '\n')
  process.exit(out.metadata.bad.length || (out.content && out.content.bad.length) ? 6 : 0)
}

main().catch(c.fail)
