// A tool that nano was trained to call.

export const WEATHER = {
  type: 'function' as const,
  function: {
    name: 'get_weather',
    description: 'Get the weather in a city.',
    parameters: {
      type: 'object',
      properties: { city: { type: 'string', description: 'The city.' } },
      required: ['city'],
    },
  },
};
