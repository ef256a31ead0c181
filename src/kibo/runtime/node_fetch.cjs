// Has Node's own `fetch` use the proxy that the environment names, in versions that cannot by themselves.
//
// Node reads NODE_USE_ENV_PROXY from 24 on, and from 22.21 on in 22: there this does nothing. Before those, `fetch` sends
// by undici's global dispatcher, which is an agent that connects to hosts directly: it is given another connector here.
// A program that has set a dispatcher of its own keeps it.
'use strict'
const [major, minor] = process.versions.node.split('.').map(Number)
const proxied = major >= 24 || (major === 22 && minor >= 21)

if (!proxied && process.env.https_proxy && typeof fetch === 'function') {
  const DISPATCHER = Symbol.for('undici.globalDispatcher.1')
  const plain = fetch
  let begun = false

  // Waits for the first call: undici takes 20 ms to load, for which no other program should wait.
  globalThis.fetch = function fetch (input, init = undefined) {
    if (!begun) {
      begun = true
      begin()
    }
    return plain(input, init)
  }

  function begin () {
    if (globalThis[DISPATCHER] !== undefined) return
    void Headers // which loads undici, and so makes the dispatcher
    const Agent = globalThis[DISPATCHER].constructor
    globalThis[DISPATCHER] = new Agent({ connect: connector(new URL(process.env.https_proxy)) })
  }
}

/** Makes what undici connects to an origin with: it gives a socket to send requests on, or an error. */
function connector (proxy) {
  const http = require('node:http')
  const net = require('node:net')
  const tls = require('node:tls')
  const unproxied = (process.env.no_proxy || '').split(',')

  return function connect ({ hostname, port, protocol, servername }, done) {
    const host = hostname.replace(/^\[|\]$/g, '')
    const secured = protocol === 'https:'
    const at = port || (secured ? 443 : 80)

    function use (socket) {
      if (!secured) return done(null, socket)
      const named = net.isIP(host) ? {} : { servername: servername || host }
      const secure = tls.connect({ socket, ...named })
      secure.once('secureConnect', () => done(null, secure)).once('error', done)
    }

    if (unproxied.includes(host)) {
      const socket = net.connect(at, host)
      socket.once('connect', () => use(socket)).once('error', done)
      return
    }
    const path = `${hostname}:${at}`
    const headers = { host: path }
    const asked = http.request({ host: proxy.hostname, port: proxy.port, method: 'CONNECT', path, headers, agent: false })
    asked.once('error', done)
    asked.once('connect', ({ statusCode, statusMessage }, socket) => {
      if (statusCode === 200) return use(socket)
      socket.destroy()
      done(new Error(`the proxy refuses ${path}: ${statusCode} ${statusMessage}`))
    })
    asked.end()
  }
}
