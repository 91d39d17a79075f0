//! `#[guarded]`: a panic in a function that Python calls becomes an exception of Python's.

use proc_macro::{Delimiter, Group, Ident, Span, TokenStream, TokenTree};

/// Called by the garbage collector, where no exception may be raised; they do not panic.
const LEFT_ALONE: [&str; 2] = ["__traverse__", "__clear__"];

/// Runs the body of a function, or the bodies of all functions of an `impl` block, inside of
/// `crate::error::guard`. They must return `PyResult`.
///
/// It goes above `#[pyfunction]` and `#[pymethods]`. PyO3 by itself raises a `PanicException`, which
/// derives from `BaseException` and so passes every `except Exception`.
#[proc_macro_attribute]
pub fn guarded(_arguments: TokenStream, item: TokenStream) -> TokenStream {
    let mut tokens: Vec<TokenTree> = item.into_iter().collect();
    let is_impl = tokens
        .iter()
        .any(|token| matches!(token, TokenTree::Ident(word) if word.to_string() == "impl"));
    if let Some(TokenTree::Group(body)) = tokens.pop() {
        tokens.push(TokenTree::Group(if is_impl {
            with_guarded_functions(&body)
        } else {
            guarded_body(&body)
        }));
    }
    tokens.into_iter().collect()
}

/// An `impl` block's braces with each function's body guarded.
fn with_guarded_functions(block: &Group) -> Group {
    let (mut name, mut is_next) = (String::new(), false);
    let tokens = block.stream().into_iter().map(|token| match token {
        TokenTree::Ident(word) => {
            if is_next {
                name = word.to_string();
            }
            is_next = word.to_string() == "fn";
            TokenTree::Ident(word)
        }
        TokenTree::Group(body)
            if body.delimiter() == Delimiter::Brace && !LEFT_ALONE.contains(&name.as_str()) =>
        {
            TokenTree::Group(guarded_body(&body))
        }
        other => other,
    });
    like(block, tokens.collect())
}

/// `{ body }` as `{ crate::error::guard(move || { body }) }`.
fn guarded_body(body: &Group) -> Group {
    let closure: TokenStream = [
        TokenTree::Ident(Ident::new("move", Span::call_site())),
        punct('|'),
        punct('|'),
        TokenTree::Group(body.clone()),
    ]
    .into_iter()
    .collect();
    let mut call: TokenStream = "crate::error::guard".parse().unwrap_or_default();
    call.extend([TokenTree::Group(Group::new(
        Delimiter::Parenthesis,
        closure,
    ))]);
    like(body, call)
}

fn punct(mark: char) -> TokenTree {
    TokenTree::Punct(proc_macro::Punct::new(mark, proc_macro::Spacing::Alone))
}

fn like(group: &Group, tokens: TokenStream) -> Group {
    let mut new = Group::new(group.delimiter(), tokens);
    new.set_span(group.span());
    new
}
