// What eslint decides: typescript-eslint's type-aware rules on TypeScript, the plain ones on the tools.
import js from '@eslint/js';
import tseslint from 'typescript-eslint';

const names =
  'console process performance URL URLSearchParams TextDecoder TextEncoder Buffer WebAssembly fetch ' +
  'setTimeout clearTimeout setInterval clearInterval AbortController structuredClone globalThis navigator';
const globals = Object.fromEntries(names.split(' ').map((name) => [name, 'readonly']));

export default tseslint.config(
  {
    ignores: [
      'build/',
      '.tools/',
      '**/dist/',
      'node_modules/',
      'engine/',
      'models/',
      'tests/fixtures/',
    ],
  },
  js.configs.recommended,
  {
    files: ['**/*.{js,mjs}'],
    languageOptions: { globals },
  },
  {
    files: ['**/*.ts'],
    extends: [tseslint.configs.recommendedTypeChecked],
    languageOptions: { parserOptions: { projectService: true } },
    rules: {
      // tsc sees undefined names, and knows the DOM's.
      'no-undef': 'off',
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_' }],
      '@typescript-eslint/switch-exhaustiveness-check': [
        'error',
        { considerDefaultExhaustiveForUnions: true },
      ],
      '@typescript-eslint/restrict-template-expressions': [
        'error',
        { allowNumber: true, allowBoolean: true },
      ],
    },
  },
);
