// @parse/node-apn against push-sim: usage: node node_apn.cjs JSON, where JSON says address, credentials and device tokens.
// It prints what it was told of each push, as JSON.
'use strict';
const apn = require('@parse/node-apn');

const given = JSON.parse(process.argv[2]);
const options = { address: given.host, port: given.port, ca: given.ca, requestTimeout: 10000, connectionRetryLimit: 0 };
if (given.certificate) {
  Object.assign(options, { cert: given.certificate, key: given.key });
} else {
  options.token = { key: given.p8, keyId: given.keyId, teamId: given.teamId };
}
const provider = new apn.Provider(options);

async function main() {
  const results = [];
  for (const device of given.devices) {
    const note = new apn.Notification();
    note.topic = given.topic;
    note.pushType = 'alert';
    note.priority = 10;
    note.expiry = 0;
    note.collapseId = 'call-1';
    note.alert = { title: 'Call', body: `for ${device.slice(0, 4)}` };
    note.payload = { from: 'node-apn' };
    const result = await provider.send(note, device);
    results.push(result);
  }
  const many = new apn.Notification({ topic: given.topic, pushType: 'alert', alert: 'many' });
  const bulk = await provider.send(many, Array(given.bulk).fill(given.devices[0]));
  const shown = results.map(one => ({
    sent: one.sent.map(sent => sent.device),
    failed: one.failed.map(failed => ({ device: failed.device, status: failed.status, response: failed.response, error: failed.error && failed.error.message })),
  }));
  console.log(JSON.stringify({ results: shown, bulk: { sent: bulk.sent.length, failed: bulk.failed.length, first: bulk.failed[0] } }));
  await provider.shutdown();
}

main().catch(error => {
  console.error(error);
  process.exit(1);
});
