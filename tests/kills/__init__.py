"""The whole system under load while its parts are killed, paused, cut off and filled up; afterwards every reading is counted."""
