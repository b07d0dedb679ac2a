// The entry point `lapidary/testing`: models that play a script, for tests of programs that use Lapidary. They need no
// GPU, no file and no engine.

export {
  createFakeModel,
  type FakeControls,
  type FakeModel,
  type FakeOptions,
  type FakeReply,
  type FakeRequest,
} from './testing/fake-model.js';
export { fakeWorker, type FakeWorkerOptions } from './testing/fake-worker.js';
