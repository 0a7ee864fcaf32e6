"""One exchange with a node: whom we ask, what was asked, what came back, and the messages between."""
