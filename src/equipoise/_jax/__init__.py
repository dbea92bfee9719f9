"""All that the library knows of JAX below its documented surface, a small adapter a purpose.

==============  ============================================  ======================
adapter         imports                                       seen to work on jax
==============  ============================================  ======================
``programs``    ``jax.extend.core``: ClosedJaxpr, Jaxpr,      0.9.0, 0.10.2, 0.12.0
                JaxprEqn, Literal, Var, jaxpr_as_fun
``primitives``  ``jax.extend.core``: Primitive;               0.9.0, 0.10.2, 0.12.0
                ``jax.interpreters``: ad, batching, mlir
``zeros``       ``jax.custom_derivatives``: SymbolicZero      0.9.0, 0.10.2, 0.12.0
==============  ============================================  ======================

``tests/test_imports.py`` holds the table: nothing else imports from these places.
"""
