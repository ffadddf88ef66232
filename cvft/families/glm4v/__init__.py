"""GLM-4.1V: frames of any shape in pairs, each pair's second written behind it, places told by three coordinates."""
