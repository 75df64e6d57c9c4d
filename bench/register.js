#!/usr/bin/env node
'use strict'
// What bench/register.py measures, by the reference: one workload, one JSON object on stdout. Times are of the workload
// alone, without the start of Node and opening.

const fs = require('fs')
const path = require('path')
const { createRequire } = require('module')
const interop = createRequire(path.join(__dirname, '..', 'tests', 'interop', 'common.js'))
const hypercore = interop('hypercore')
const hypercoreCrypto = interop('hypercore-crypto')
const raf = interop('random-access-file')

const [workload, dir, ...numbers] = process.argv.slice(2)
const [count, size, batch, seed] = numbers.map(Number)
const pair = hypercoreCrypto.keyPair(Buffer.from(Array.from({ length: 32 }, (_, i) => i)))

const call = (object, method, ...args) => new Promise((resolve, reject) => {
  object[method](...args, (err, value) => err ? reject(err) : resolve(value))
})

async function open (folder, secretKey) {
  const feed = hypercore(name => raf(path.join(folder, name)), pair.publicKey, { secretKey, sparse: true })
  await call(feed, 'ready')
  return feed
}

// As bench/register.py makes them
function chunk (i) {
  const out = Buffer.alloc(size, i & 255)
  out.writeUInt32BE(i, 0)
  return out
}

// As bench/register.py chooses them
function * indices (length) {
  let state = seed
  for (let i = 0; i < count; i++) {
    state = Number((BigInt(state) * 1103515245n + 12345n) & 0x7fffffffn)
    yield state % length
  }
}

function calls () {
  const io = fs.readFileSync('/proc/self/io', 'latin1')
  return Number(/syscr: (\d+)/.exec(io)[1]) + Number(/syscw: (\d+)/.exec(io)[1])
}

const now = () => Number(process.hrtime.bigint()) / 1e9

const workloads = {
  async append () {
    const feed = await open(dir, pair.secretKey)
    const batches = []
    for (let i = 0; i < count; i += batch) {
      const list = []
      for (let j = i; j < Math.min(count, i + batch); j++) list.push(chunk(j))
      batches.push(batch === 1 ? list[0] : list)
    }
    const [before, started] = [calls(), now()]
    for (const list of batches) await call(feed, 'append', list)
    return { seconds: now() - started, calls: calls() - before }
  },

  async proof () {
    const feed = await open(dir)
    const wanted = [...indices(feed.length)]
    const [before, started] = [calls(), now()]
    for (const index of wanted) await call(feed, 'proof', index)
    return { seconds: now() - started, calls: calls() - before }
  },

  async put () {
    const origin = await open(path.join(dir, 'origin'))
    const copy = await open(path.join(dir, 'copy'))
    let [seconds, done] = [0, 0]
    for (let i = 0; i < count; i++) {
      const value = await call(origin, 'get', i)
      const proof = await call(origin, 'proof', i, { digest: copy.digest(i) })
      const [before, started] = [calls(), now()]
      await call(copy, 'put', i, value, proof)
      seconds += now() - started
      done += calls() - before
    }
    return { seconds, calls: done }
  },

  async audit () {
    const feed = await open(dir)
    const started = now()
    const report = await call(feed, 'audit')
    if (report.invalid || report.valid !== count) throw new Error(JSON.stringify(report))
    return { seconds: now() - started, calls: 0 }
  }
}

function nativeCrypto () {
  try {
    require('sodium-native')
    return true
  } catch (err) {
    return false
  }
}

workloads[workload]().then(result => {
  const crypto = nativeCrypto() ? 'native libsodium' : 'plain JavaScript'
  fs.writeSync(1, JSON.stringify(Object.assign(result, { crypto, node: process.version })) + '\n')
  process.exit(0)
}, err => {
  fs.writeSync(2, `${err.stack}\n`)
  process.exit(1)
})
