"""
A model of what a protocol must see of its transport, held to every transport call in any order.

L{tests.model.steps} are what can be done, by either end, to the network and to the clock;
L{tests.model.world} does them, over TLS or over plain TCP; L{tests.model.rules} is the model.
"""
