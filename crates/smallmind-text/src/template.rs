//! stub
/// x
#[derive(Debug)]
pub struct ChatTemplate;
/// x
#[derive(Debug)]
pub struct Message;
/// x
#[derive(Debug)]
pub struct RenderOptions;
/// x
pub fn builtin_template(_f: &str) -> Option<&'static str> { None }
