#!/usr/bin/env node
'use strict'
// Makes a drive in a new folder and prints what is in it as one JSON object.

const fs = require('fs')
const c = require('./common')
const putMany = require('./big')

const CLOCK = 1514764800000 // 2018-01-01, in milliseconds; a second more for every operation

const usage = `make.js --out DIR [flags]
  --layout raf|sleep|dat   how it lies on disk (default sleep)
  --plan FILE              JSON list of operations (see common.js); - is stdin
  --big N                  N files of a line each, before the plan
  --fanout N               with --big: names in a folder, at most (default 50)
  --seed HEX64             seed of the key pair: the same drive to the last byte (default: a new one)
  --no-secret              leave no secret key behind
  --no-list                print no list of files`

const args = c.flags({
  out: 'text', layout: 'text', plan: 'text', big: 'number', fanout: 'number', seed: 'text', 'no-secret': 'switch', 'no-list': 'switch'
}, usage)

async function main () {
  if (!args.out || args._.length) throw new Error(usage)
  const layout = args.layout || 'sleep'
  if (!['raf', 'sleep', 'dat'].includes(layout)) throw new Error(`unknown layout ${layout}`)
  if (fs.existsSync(args.out) && fs.readdirSync(args.out).length) throw new Error(`${args.out} is not empty`)
  const plan = args.plan ? JSON.parse(fs.readFileSync(args.plan === '-' ? 0 : args.plan, 'utf8')) : []

  const drive = c.create(args.out, layout, args.seed)
  await c.contentReady(drive)
  let clock = CLOCK
  if (args.big) {
    const files = putMany.names(args.big, args.fanout || 50).map(path => ({ path, bytes: Buffer.from(path + '\n') }))
    await putMany(drive, files, i => CLOCK + 1000 * (i + 1))
    clock += 1000 * args.big
  }
  for (const op of plan) await c.applyOperation(drive, op, clock += 1000)

  const out = c.describe(drive)
  if (!args['no-list']) {
    out.entries = []
    for (const entry of await c.listing(drive)) {
      const row = { path: entry.path, directory: entry.directory }
      if (!entry.directory) Object.assign(row, { size: entry.stat.size, offset: entry.stat.offset, blocks: entry.stat.blocks }, await c.readHashed(drive, entry.path))
      out.entries.push(row)
    }
  }
  await c.call(drive, 'close')
  tidy(layout)
  fs.writeSync(1, JSON.stringify(out) + '\n')
}

// Makes the folder what the programs that write this layout leave behind
function tidy (layout) {
  const drop = file => { if (fs.existsSync(file)) fs.unlinkSync(file) }
  // storage opened for a key that is never stored there
  if (layout !== 'raf') drop(c.partPath(args.out, layout, 'content', 'secret_key'))
  // an empty drive has the file too, and is told from the dat layout by it
  if (layout !== 'dat') fs.closeSync(fs.openSync(c.partPath(args.out, layout, 'content', 'data'), 'a'))
  if (!args['no-secret']) return
  for (const register of ['metadata', 'content']) drop(c.partPath(args.out, layout, register, 'secret_key'))
  if (layout === 'dat') removeFolder(`${args.out}/.dat/secret_keys`)
}

// fs.rmSync came after Node 12
function removeFolder (dir) {
  for (const name of fs.readdirSync(dir)) {
    const at = `${dir}/${name}`
    if (fs.statSync(at).isDirectory()) removeFolder(at)
    else fs.unlinkSync(at)
  }
  fs.rmdirSync(dir)
}

main().catch(c.fail)
