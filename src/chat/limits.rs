//! What a chat template may take.

/// Largest chat template, bytes: 128 KiB. Those of today's models take at most 20 KiB.
pub const MAX_TEMPLATE_BYTES: usize = 128 << 10;
/// Longest text that a template may write, bytes: 4 MiB.
pub const MAX_RENDERED_BYTES: usize = 4 << 20;
/// Largest `tokenizer_config.json` or `special_tokens_map.json`, bytes: 16 MiB.
pub(super) const MAX_CONFIG_BYTES: u64 = 16 << 20;
/// Instructions that one render may take; 64 bytes of data made on the way count as one, too.
pub(super) const FUEL: u64 = 2_000_000;
/// Depth of macros that call each other, in the units of the template engine: about 40 calls.
pub(super) const RECURSION: usize = 200;
/// Deepest list or mapping that is written as text.
pub(super) const MAX_DEPTH: usize = 100;
/// Stack for the template engine, which recurses over long expressions and deep values. Pages that are not
/// touched take no memory.
pub(super) const STACK_BYTES: usize = 256 << 20;
