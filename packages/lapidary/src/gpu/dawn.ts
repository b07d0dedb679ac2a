// What Dawn is started with in Node.

// Experimental features, and f16 on GPUs of NVIDIA, where Dawn does without otherwise: subgroup matrices need both.
const UNSAFE = ['allow_unsafe_apis', 'vulkan_enable_f16_on_nvidia'];

/**
 * The arguments of `create` (npm's `webgpu`) that enable these features of Dawn and, only where the environment says
 * LAPIDARY_UNSAFE_WEBGPU=1, the experimental ones.
 */
export function dawnFlags(
  environment: Record<string, string | undefined>,
  ...features: string[]
): string[] {
  const enabled = [...(environment.LAPIDARY_UNSAFE_WEBGPU === '1' ? UNSAFE : []), ...features];
  return enabled.length > 0 ? [`enable-dawn-features=${enabled.join(',')}`] : [];
}
