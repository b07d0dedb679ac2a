// The error table of the TypeScript side is the engine's.

import { ERROR_CODES, Engine, LapidaryError, engineModule } from 'lapidary/node';
import { expect, test } from 'vitest';

test('the codes are those of engine/base/error.h', async () => {
  const engine = await Engine.create(await engineModule(), undefined);
  const codes = engine.callSyncJson<Record<string, number>>('lap_error_codes');
  expect(
    Object.fromEntries(Object.entries(ERROR_CODES).map(([n, name]) => [name, Number(n)])),
  ).toEqual(codes);
});

test('an error keeps its code through the boundary and back', () => {
  for (const number of Object.keys(ERROR_CODES).map(Number)) {
    expect(LapidaryError.numberOf(LapidaryError.fromNumber(number, 'x'), 'io_error')).toBe(number);
  }
  expect(LapidaryError.fromNumber(999, 'x').code).toBe('internal_error');
  expect(LapidaryError.numberOf(new Error('x'), 'io_error')).toBe(6);
  expect(new LapidaryError('cancelled', 'x').name).toBe('AbortError');
});

test('an engine without a GPU refuses calls that need one, and stays usable', async () => {
  const engine = await Engine.create(await engineModule(), undefined);
  expect(() => engine.callSync('lap_no_such_export')).toThrow(/exports no/);
  expect(() => engine.callSync('lap_model_info', 7)).toThrow(
    expect.objectContaining({ code: 'invalid_argument' }),
  );
  expect(engine.callSyncJson<{ display: string }>('lap_ollama_name', 'nano').display).toBe(
    'nano:latest',
  );
});
