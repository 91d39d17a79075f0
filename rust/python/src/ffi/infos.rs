//! The infos of a step: a list of dicts, one for each environment, that nearly always say nothing.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString};

/// The lists of the last two steps, kept to be handed out again.
///
/// Making 1024 dicts takes three times as long as stepping 1024 `CartPole`s. A caller usually lets
/// go of one step's infos while he takes the next one's, so two lists taking turns suffice: a list
/// or dict that nobody else holds, and that says what it said when it was new, cannot be told from
/// a new one.
#[derive(Default)]
pub(crate) struct InfoPool {
    lists: [Option<Py<PyList>>; 2],
    turn: usize,
}

impl InfoPool {
    /// A list of `len` dicts `{key: False}`. Nobody but the pool holds the list or any of them.
    pub(crate) fn take<'py>(
        &mut self,
        py: Python<'py>,
        key: &Bound<'py, PyString>,
        len: usize,
    ) -> PyResult<Bound<'py, PyList>> {
        self.turn ^= 1;
        let kept = self.lists[self.turn].take().map(|list| list.into_bound(py));
        let list = match kept {
            Some(list) if is_sole(list.as_any()) && list.len() == len => {
                renew(&list, key)?;
                list
            }
            _ => fresh_list(py, key, len)?,
        };
        self.lists[self.turn] = Some(list.clone().unbind());
        Ok(list)
    }

    /// The lists, for the garbage collector.
    pub(crate) fn lists(&self) -> impl Iterator<Item = &Py<PyList>> {
        self.lists.iter().flatten()
    }
}

fn fresh_dict<'py>(py: Python<'py>, key: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item(key, false)?;
    Ok(dict)
}

fn fresh_list<'py>(
    py: Python<'py>,
    key: &Bound<'py, PyString>,
    len: usize,
) -> PyResult<Bound<'py, PyList>> {
    let dicts: PyResult<Vec<_>> = (0..len).map(|_| fresh_dict(py, key)).collect();
    PyList::new(py, dicts?)
}

/// Whether the reference at hand is the only one.
fn is_sole(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: a `Bound` points to a live object, and the GIL is held.
    unsafe { ffi::Py_REFCNT(object.as_ptr()) == 1 }
}

/// Replaces every item that somebody else holds or that was changed.
fn renew(list: &Bound<'_, PyList>, key: &Bound<'_, PyString>) -> PyResult<()> {
    for at in 0..list.len() {
        // SAFETY: the index is inside the list; the item is borrowed from it and not used after
        // the list may change.
        let good = unsafe {
            let item = ffi::PyList_GetItem(list.as_ptr(), at as ffi::Py_ssize_t);
            ffi::Py_REFCNT(item) == 1 && says_nothing(item, key.as_ptr())
        };
        if !good {
            list.set_item(at, fresh_dict(list.py(), key)?)?;
        }
    }
    Ok(())
}

/// Whether `item` is a dict with the one entry `{key: False}`.
///
/// # Safety
/// Both point to live objects, and the GIL is held.
unsafe fn says_nothing(item: *mut ffi::PyObject, key: *mut ffi::PyObject) -> bool {
    let (mut at, mut first, mut value) = (0, std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: `item` is a dict when `PyDict_Next` and `PyDict_Size` see it, the rest are places
    // for borrowed pointers that are only compared.
    unsafe {
        ffi::PyDict_CheckExact(item) != 0
            && ffi::PyDict_Next(item, &mut at, &mut first, &mut value) != 0
            && first == key
            && value == ffi::Py_False()
            && ffi::PyDict_Size(item) == 1
    }
}
