// node import.js FOLDER: makes a drive of a folder as dat 13 does, and imports everything in it, without a network.
'use strict'
const path = require('path')
const packages = path.join(__dirname, '..', 'tests', 'interop', 'discovery', 'node_modules')

require(path.join(packages, 'dat-node'))(process.argv[2], { latest: true }, (err, dat) => {
  if (err) throw err
  dat.importFiles({ count: false }, err => {
    if (err) throw err
    console.log(dat.archive.version)
    process.exit(0)
  })
})
